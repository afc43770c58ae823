/*
 * io.c - which backend a process gets. Never chosen in silence.
 */
#include "io/io.h"

#include "io/io_impl.h"

vv_status vv_io_backend_create(vv_io_choice choice, const vv_logger *lg, vv_io_backend **out, vv_error *err) {
    *out = NULL;
    if (choice == VV_IO_CHOICE_POSIX) {
        VV_TRY(vv_posix_backend_create(lg, out, err));
        vv_log(lg, VV_LOG_INFO, "io: backend posix, as configured");
        return VV_STATUS_OK;
    }
    vv_error why = {0};
    const char *flags;
    vv_status st = vv_uring_backend_create(lg, out, &flags, &why);
    if (vv_ok(st)) {
        vv_log(lg, VV_LOG_INFO, "io: backend io_uring (%s), %s", flags,
               choice == VV_IO_CHOICE_AUTO ? "the kernel allows it" : "as configured");
        return st;
    }
    if (choice == VV_IO_CHOICE_URING || !vv_is(st, VV_UNSUPPORTED))
        return vv_fail(err, st, "io_uring is not available: %s", why.text);
    VV_TRY(vv_posix_backend_create(lg, out, err));
    vv_log(lg, VV_LOG_WARN, "io: io_uring is not available, taking backend posix: %s", why.text);
    return VV_STATUS_OK;
}

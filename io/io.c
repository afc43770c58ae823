#include "io/io.h"

#include "io/io_impl.h"

vv_status vv_io_backend_create(vv_io_choice choice, const vv_logger *lg, vv_io_backend **out, vv_error *err) {
    *out = NULL;
    if (choice == VV_IO_CHOICE_URING)
        return vv_fail(err, vv_status_make(VV_UNSUPPORTED, VV_SUB_NONE, 0),
                       "no io_uring backend in this build");
    VV_TRY(vv_posix_backend_create(lg, out, err));
    if (choice == VV_IO_CHOICE_POSIX)
        vv_log(lg, VV_LOG_INFO, "io: backend posix, as configured");
    else
        vv_log(lg, VV_LOG_WARN, "io: backend posix: no io_uring backend in this build");
    return VV_STATUS_OK;
}

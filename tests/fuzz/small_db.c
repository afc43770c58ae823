#include "tests/fuzz/small_db.h"

#include "engine/db/db_impl.h"
#include "tests/fuzz/fuzz.h"

static void set(varve_options *o, const char *key, const char *value) {
    varve_error err;
    varve_status st = varve_options_set(o, key, value, &err);
    FUZZ_CHECK(varve_ok(st), "%s", err.text);
}

varve_options *fuzz_db_options(const char *const *more) {
    static const char *const small[] = {"MEMTABLE_SIZE",
                                        "64KiB",
                                        "WAL_SEGMENT_SIZE",
                                        "256KiB",
                                        "WAL_BUFFER_SIZE",
                                        "2",
                                        "MAX_WAL_SIZE",
                                        "1MiB",
                                        "CACHE_CAPACITY",
                                        "256KiB",
                                        "TABLE_CACHE_MEMORY",
                                        "1MiB",
                                        "MAX_TABLE_SIZE",
                                        "64KiB",
                                        "COMPACTION_THRESHOLD",
                                        "2",
                                        "LSM_LEVELS",
                                        "3",
                                        NULL};
    varve_options *o = varve_options_create();
    FUZZ_CHECK(o);
    for (size_t i = 0; small[i]; i += 2)
        set(o, small[i], small[i + 1]);
    for (size_t i = 0; more && more[i]; i += 2)
        set(o, more[i], more[i + 1]);
    return o;
}

varve_db *fuzz_db_open_with(vv_io_backend *disk, const varve_options *options) {
    varve_options *own = options ? NULL : fuzz_db_options(NULL);
    varve_db *db;
    vv_error err;
    vv_status st = vv_db_open_on(fuzz_disk_ref(disk), "/d", options ? options : own, &db, &err);
    FUZZ_CHECK(vv_ok(st), "%s", err.text);
    varve_options_destroy(own);
    return db;
}

varve_db *fuzz_db_open(vv_io_backend *disk) {
    return fuzz_db_open_with(disk, NULL);
}

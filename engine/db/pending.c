/*
 * pending.c - what is declared in varve.h and on its way. Each function moves from here to its own file.
 */
#include <string.h>

#include "engine/db/db_impl.h"

#define NOT_YET   vv_public(vv_status_make(VV_UNSUPPORTED, VV_SUB_NONE, 0))
#define UNUSED(x) ((void)(x))

/* ---- commit_limit.c ---- */
varve_status varve_limit_commits(varve_db *db, bool limited, varve_error *err) {
    UNUSED(db), UNUSED(limited), UNUSED(err);
    return NOT_YET;
}
void varve_set_commit_limit(varve_db *db, uint64_t lsn) {
    UNUSED(db), UNUSED(lsn);
}
void varve_want_notice(varve_db *db) {
    UNUSED(db);
}

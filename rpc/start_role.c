#include "rpc/start_role.h"

#include <inttypes.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "rpc/discovery.h"
#include "rpc/role_file.h"

#define ASK_TIMEOUT_NS VV_NS_PER_S

static vv_status create_discovery(const vv_server_config *config, varve_db *db, const char *node,
                                  vv_discovery **out, vv_error *err) {
    uint8_t database_id[VARVE_DATABASE_ID_BYTES];
    varve_database_id(db, database_id);
    vv_status st = vv_discovery_create(config, node, database_id, out);
    return vv_ok(st) ? st : vv_fail(err, st, "start following");
}

/* A higher epoch that somebody knows of is promised: so it is remembered when nobody answers next time. */
static vv_status ask_before_start(const vv_server_config *config, varve_db *db, const char *node,
                                  const vv_logger *log, vv_role *role, vv_error *err) {
    vv_address addresses[VV_DISCOVERY_MAX], primary;
    size_t count = vv_discovery_addresses(config, "", addresses);
    vv_discovery *discovery;
    varve_stats stats;
    varve_stats_get(db, &stats);
    if (count == 0)
        return VV_STATUS_OK;
    VV_TRY(create_discovery(config, db, node, &discovery, err));
    uint64_t epoch = vv_discovery_newest_epoch(discovery, addresses, count, ASK_TIMEOUT_NS, primary);
    vv_discovery_destroy(discovery);
    if (epoch <= stats.epoch)
        return VV_STATUS_OK;
    vv_log(log, VV_LOG_WARN,
           "superseded: there is an epoch %" PRIu64 ", and this server was the primary of %" PRIu64, epoch,
           stats.epoch);
    varve_error words = {""};
    varve_status st = varve_promise_epoch(db, epoch, &words);
    if (!varve_ok(st) && st.reason != VV_SUB_EPOCH_TOO_OLD)
        return vv_fail(err, vv_status_make((vv_code)st.code, (vv_sub)st.reason, 0), "%s", words.text);
    *role = config->follow[0] ? VV_ROLE_FOLLOWER : VV_ROLE_SUPERSEDED;
    return VV_STATUS_OK;
}

vv_status vv_start_role(const vv_server_config *config, varve_db *db, const char *node, const vv_logger *log,
                        vv_role *out, vv_error *err) {
    vv_role_file file;
    varve_stats stats;
    varve_stats_get(db, &stats);
    vv_error words = {""};
    vv_status st = vv_role_file_read(config->data, &file, &words);
    bool none = vv_is(st, VV_NOT_FOUND);
    if (!vv_ok(st) && !none)
        return vv_fail(err, st, "%s", words.text);
    *out = vv_role_at_start(none ? NULL : &file, config->follow, stats.epoch, stats.promised_epoch);
    if (*out == VV_ROLE_PRIMARY)
        return ask_before_start(config, db, node, log, out, err);
    if (*out == VV_ROLE_SUPERSEDED && config->peer_count == 0)
        vv_log(
            log, VV_LOG_WARN,
            "this database was a follower's, or has promised to follow a newer primary, and neither FOLLOW "
            "nor PEERS says where that is: it takes no writes until it is promoted");
    return VV_STATUS_OK;
}

/* ---- a log that has too much ---- */

static vv_plan compare(varve_db *db, const vv_sighting *primary, const vv_logger *log) {
    varve_epoch own[VARVE_EPOCHS_MAX];
    size_t own_count = varve_epochs_get(db, own);
    uint64_t common_lsn = 0, last_lsn = varve_durable_lsn(db);
    bool known = varve_epochs_common_lsn(own, own_count, last_lsn, primary->history, primary->history_count,
                                         primary->durable_lsn, &common_lsn);
    if (!known || common_lsn >= last_lsn)
        return (vv_plan){.kind = VV_PLAN_NONE};
    vv_log(log, VV_LOG_WARN,
           "diverged: this log goes to LSN %" PRIu64 ", and is that of %s up to %" PRIu64 " only", last_lsn,
           primary->address, common_lsn);
    return (vv_plan){
        .kind = VV_PLAN_REWIND, .lsn = common_lsn, .epoch = own[own_count - 1].epoch, .keep = true};
}

vv_status vv_start_plan(const vv_server_config *config, varve_db *db, const char *node, const vv_logger *log,
                        vv_plan *out, vv_error *err) {
    vv_address addresses[VV_DISCOVERY_MAX];
    size_t count = vv_discovery_addresses(config, "", addresses);
    vv_discovery *discovery;
    vv_error words;
    varve_stats stats;
    *out = (vv_plan){.kind = VV_PLAN_NONE};
    varve_stats_get(db, &stats);
    if (count == 0 || stats.durable_lsn == 0)
        return VV_STATUS_OK;
    VV_TRY(create_discovery(config, db, node, &discovery, err));
    vv_sighting *primary = vv_alloc(sizeof *primary);
    if (primary && vv_discovery_find(discovery, addresses, count, VV_MAX(stats.promised_epoch, stats.epoch),
                                     ASK_TIMEOUT_NS, primary, &words) == VV_FIND_OK)
        *out = compare(db, primary, log);
    vv_free(primary);
    vv_discovery_destroy(discovery);
    return VV_STATUS_OK;
}

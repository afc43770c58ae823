/*
 * fetch.c - the fetch that a follower begins with (rpc/fetch.h), for a backup on another machine.
 *
 * No slot is taken: what the server writes meanwhile is not kept for anybody. What is lost on the way is
 * tried again, until nothing has come for GIVE_UP_NS or for --timeout.
 */
#include "cli/fetch.h"

#include "base/clock.h"
#include "cli/progress.h"
#include "rpc/fetch.h"

#define GIVE_UP_NS        (UINT64_C(60) * VV_NS_PER_S)
#define MESSAGE_BYTES_MAX (UINT64_C(64) << 20)

static bool fail(vv_client_error *err, vv_status st, const vv_error *words) {
    return vv_client_fail(err, vv_code_name(st.code), st.sub ? vv_sub_name(st.sub) : "",
                          words->text[0] ? words->text : vv_code_text(st.code));
}

bool vv_cli_fetch(const vv_client_target *target, const char *dir, varve_backup_info *out,
                  vv_client_error *err) {
    vv_peer *peer;
    vv_progress progress;
    vv_fetch_info info = {0};
    vv_error words = {""};
    vv_peer_options options = {.address = target->address,
                               .token = target->token_file ? NULL : target->token,
                               .token_file = target->token_file,
                               .tls_ca = target->tls_ca,
                               .tls_cert = target->tls_cert,
                               .tls_key = target->tls_key,
                               .message_bytes_max = MESSAGE_BYTES_MAX};
    vv_status st = vv_peer_create(&options, &peer, &words);
    if (!vv_ok(st))
        return fail(err, st, &words);
    vv_progress_begin(&progress, stderr, "fetch");
    vv_fetch_options fetch = {.peer = peer,
                              .dir = dir,
                              .give_up_ns =
                                  target->timeout_us ? target->timeout_us * VV_NS_PER_US : GIVE_UP_NS,
                              .progress = vv_progress_show,
                              .arg = &progress};
    st = vv_fetch(&fetch, &info, &words);
    vv_progress_end(&progress);
    vv_peer_destroy(peer);
    if (!vv_ok(st))
        return fail(err, st, &words);
    *out = (varve_backup_info){.lsn = info.lsn,
                               .file_count = info.file_count,
                               .bytes = info.bytes,
                               .copied_bytes = info.fetched_bytes};
    return true;
}

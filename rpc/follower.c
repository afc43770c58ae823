/*
 * follower.c - one thread, which at any time looks for a primary, follows one, fetches a copy from one, or
 * rests. Whoever wants it to do something else interrupts what is under way and wakes it from its rest.
 *
 * Failures are tried again: after 50 ms, then twice as long each time up to 2 s, each time a little different
 * so that many followers of one primary don't come back in step. What only a person can mend (no right,
 * another database) is tried every 5 s. The log has a line when the reason changes.
 *
 * A server that was a primary in this run doesn't follow in this run: a write that was let in before may
 * still be on its way to the engine. It asks for a restart, which waits for them all.
 *
 * What this does to the log is only ever what a plan says, and that is made from the histories of both sides:
 *
 *     ours is a part of the primary's          follow
 *     parts from it at a known LSN             REWIND to that
 *     tables have more than that, or not known  fetch, INSTALL and keep the old directory beside
 *     the primary has trimmed its log          fetch, INSTALL; the old one has nothing of its own
 */
#include "rpc/follower.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "base/sync.h"
#include "rpc/discovery.h"
#include "rpc/fetch.h"
#include "rpc/follow_link.h"
#include "rpc/role_file.h"

#define ASK_EVERY_NS     VV_NS_PER_S
#define ASK_TIMEOUT_NS   VV_NS_PER_S
#define RETRY_NS_MIN     (50 * VV_NS_PER_MS)
#define RETRY_NS_MAX     (2 * VV_NS_PER_S)
#define RETRY_SLOW_NS    (5 * VV_NS_PER_S)
#define FETCH_GIVE_UP_NS (30 * VV_NS_PER_S)
#define PATH_BYTES       (VV_SERVER_DATA_BYTES_MAX + 64)
#define IMPORT_MARK      "IMPORT" /* of varve_import_begin(), see FORMAT.md */
#define UNTIL_WOKEN      UINT64_MAX

struct vv_follower {
    vv_follower_options o;
    vv_discovery *discovery;
    pthread_t thread;
    bool started;
    /* The thread's own: */
    vv_address named; /* who is said to be the primary, or was */
    uint64_t retry_ns;
    uint64_t random;
    bool role_noted; /* DATA/ROLE says that this server follows */
    bool in_trouble; /* of its own, which was said */
    char said[sizeof(vv_error) + 64];
    struct {
        vv_mutex lock;
        vv_cond changed;
        vv_peer *peer; /* of what is under way */
        bool stopping;
        bool paused; /* for a promotion */
        bool idle;   /* and it heeds that, or has ended */
        bool woken;
        bool was_primary; /* in this run */
        vv_plan plan;
    } mu;
};

/* ---- turns ---- */

static bool wanted(vv_follower *f) {
    vv_mutex_lock(&f->mu.lock);
    bool going = !f->mu.stopping && !f->mu.paused;
    vv_mutex_unlock(&f->mu.lock);
    return going;
}

/* What is under way ends soon. With the lock. */
static void interrupt(vv_follower *f) {
    if (f->mu.peer)
        vv_peer_interrupt(f->mu.peer);
    vv_discovery_interrupt(f->discovery);
    vv_cond_broadcast(&f->mu.changed);
}

/* While it is paused it waits here. False: it is to end. */
static bool begin_turn(vv_follower *f) {
    vv_mutex_lock(&f->mu.lock);
    while (f->mu.paused && !f->mu.stopping) {
        f->mu.idle = true;
        vv_cond_broadcast(&f->mu.changed);
        vv_cond_wait(&f->mu.changed, &f->mu.lock);
    }
    f->mu.idle = f->mu.stopping;
    f->mu.woken = false;
    bool going = !f->mu.stopping;
    if (going)
        vv_discovery_allow(f->discovery);
    else
        vv_cond_broadcast(&f->mu.changed);
    vv_mutex_unlock(&f->mu.lock);
    return going;
}

static void rest(vv_follower *f, uint64_t ns) {
    uint64_t until = ns == UNTIL_WOKEN ? 0 : vv_clock_mono_ns() + ns;
    bool time_left = true;
    vv_mutex_lock(&f->mu.lock);
    while (time_left && !f->mu.woken && !f->mu.stopping && !f->mu.paused) {
        if (ns == UNTIL_WOKEN)
            vv_cond_wait(&f->mu.changed, &f->mu.lock);
        else
            time_left = vv_cond_wait_until(&f->mu.changed, &f->mu.lock, until);
    }
    vv_mutex_unlock(&f->mu.lock);
}

/* How long to wait before the next try: between half of it and all of it. */
static uint64_t next_retry(vv_follower *f) {
    uint64_t ns = f->retry_ns;
    f->retry_ns = VV_MIN(2 * f->retry_ns, RETRY_NS_MAX);
    f->random = f->random * UINT64_C(6364136223846793005) + 1442695040888963407;
    return ns / 2 + (f->random >> 33) % (ns / 2);
}

/* A line, unless it is the one that was said last. */
static void say(vv_follower *f, vv_log_level level, const char *what, const char *address,
                const char *words) {
    char line[sizeof f->said];
    snprintf(line, sizeof line, "%s%s%s: %s", what, address[0] ? " " : "", address, words);
    if (strcmp(line, f->said) == 0)
        return;
    memcpy(f->said, line, sizeof f->said);
    vv_log(f->o.log, level, "%s", line);
}

/* ---- plans ---- */

/* Ask for the stop, and wait for it. */
static uint64_t ask_for(vv_follower *f, vv_plan plan) {
    vv_mutex_lock(&f->mu.lock);
    bool first = f->mu.plan.kind == VV_PLAN_NONE;
    if (first)
        f->mu.plan = plan;
    vv_mutex_unlock(&f->mu.lock);
    if (first && f->o.planned)
        f->o.planned(f->o.arg);
    return UNTIL_WOKEN;
}

static bool has_plan(vv_follower *f) {
    vv_mutex_lock(&f->mu.lock);
    bool planned = f->mu.plan.kind != VV_PLAN_NONE;
    vv_mutex_unlock(&f->mu.lock);
    return planned;
}

/* ---- as a primary ---- */

static uint64_t look_for_newer(vv_follower *f) {
    vv_address addresses[VV_DISCOVERY_MAX], primary;
    size_t count = vv_discovery_addresses(f->o.config, "", addresses);
    vv_mutex_lock(&f->mu.lock);
    f->mu.was_primary = true;
    vv_mutex_unlock(&f->mu.lock);
    if (count == 0)
        return UNTIL_WOKEN;
    uint64_t epoch = vv_discovery_newest_epoch(f->discovery, addresses, count, ASK_TIMEOUT_NS, primary);
    vv_replication_heard_of(f->o.replication, epoch, primary);
    return vv_replication_role(f->o.replication) == VV_ROLE_PRIMARY ? ASK_EVERY_NS : 0;
}

/* ---- fetching a copy ---- */

static void set_peer(vv_follower *f, vv_peer *peer) {
    vv_mutex_lock(&f->mu.lock);
    f->mu.peer = peer;
    if (peer && (f->mu.stopping || f->mu.paused))
        vv_peer_interrupt(peer);
    vv_mutex_unlock(&f->mu.lock);
}

static bool go_on(void *arg, uint64_t done_bytes, uint64_t total_bytes) {
    (void)done_bytes, (void)total_bytes;
    return wanted(arg);
}

static vv_peer *connect(vv_follower *f, const char *address) {
    vv_peer *peer;
    vv_error words = {""};
    if (vv_ok(vv_discovery_connect(f->o.config, address, &peer, &words))) {
        set_peer(f, peer);
        return peer;
    }
    say(f, VV_LOG_ERROR, "can't call", address, words.text);
    return NULL;
}

static void disconnect(vv_follower *f, vv_peer *peer) {
    set_peer(f, NULL);
    vv_peer_destroy(peer);
}

/* The whole store, beside this one, which serves reads meanwhile. */
static uint64_t fetch(vv_follower *f, const vv_sighting *primary, vv_plan plan) {
    char dir[PATH_BYTES];
    vv_error words = {""};
    vv_fetch_info info;
    vv_peer *peer = connect(f, primary->address);
    if (!peer)
        return RETRY_SLOW_NS;
    snprintf(dir, sizeof dir, "%s/" VV_BOOTSTRAP_DIR, f->o.config->data);
    vv_fetch_options options = {.peer = peer,
                                .dir = dir,
                                .slot = vv_replication_node(f->o.replication),
                                .engine = f->o.engine,
                                .parallel = (uint32_t)f->o.config->fetch_parallel,
                                .give_up_ns = FETCH_GIVE_UP_NS,
                                .progress = go_on,
                                .arg = f,
                                .log = f->o.log};
    vv_log(f->o.log, VV_LOG_INFO, "fetching a whole copy from %s", primary->address);
    vv_status st = vv_fetch(&options, &info, &words);
    disconnect(f, peer);
    if (vv_ok(st)) {
        vv_log(f->o.log, VV_LOG_INFO, "the copy is there, of LSN %" PRIu64, info.lsn);
        plan.kind = VV_PLAN_INSTALL;
        return ask_for(f, plan);
    }
    if (wanted(f))
        say(f, VV_LOG_WARN, "fetching a copy from", primary->address, words.text);
    return next_retry(f);
}

/* ---- following ---- */

/* A copy that was begun, and isn't needed: this log goes on without it. Its mark goes last, so that what a
 * crash leaves is known for what it is. */
static void drop_copy(const vv_follower *f) {
    char dir[PATH_BYTES], path[PATH_BYTES + 256];
    snprintf(dir, sizeof dir, "%s/" VV_BOOTSTRAP_DIR, f->o.config->data);
    snprintf(path, sizeof path, "%s/" IMPORT_MARK, dir);
    DIR *d = access(path, F_OK) == 0 ? opendir(dir) : NULL;
    if (!d)
        return;
    for (const struct dirent *e = readdir(d); e; e = readdir(d))
        if (strcmp(e->d_name, IMPORT_MARK) != 0)
            (void)unlinkat(dirfd(d), e->d_name, 0);
    (void)unlinkat(dirfd(d), IMPORT_MARK, 0);
    closedir(d);
    (void)rmdir(dir);
}

/* Whoever has taken over a primary's history is no primary of it, whatever the flags say next time: durable
 * before the history is. */
static vv_status note_role(void *arg, vv_error *err) {
    vv_follower *f = arg;
    if (f->role_noted)
        return VV_STATUS_OK;
    const vv_role_file file = {.role = VV_ROLE_FOLLOWER};
    VV_TRY(vv_role_file_write(f->o.config->data, &file, err));
    drop_copy(f);
    f->role_noted = true;
    return VV_STATUS_OK;
}

static vv_plan plan_from(vv_follower *f, vv_plan_kind kind, bool has_common, uint64_t common_lsn, bool keep) {
    varve_stats stats;
    varve_stats_get(f->o.db, &stats);
    return (vv_plan){.kind = kind, .lsn = has_common ? common_lsn : 0, .epoch = stats.epoch, .keep = keep};
}

/* Our log has writes that the primary's has not. */
static uint64_t part(vv_follower *f, const vv_sighting *primary, bool has_common, uint64_t common_lsn) {
    varve_stats stats;
    varve_stats_get(f->o.db, &stats);
    if (!has_common)
        vv_log(f->o.log, VV_LOG_WARN,
               "diverged: this log, up to LSN %" PRIu64
               ", and that of %s have nothing in common that is known",
               stats.durable_lsn, primary->address);
    else
        vv_log(f->o.log, VV_LOG_WARN,
               "diverged: this log goes to LSN %" PRIu64 ", and is that of %s up to %" PRIu64 " only",
               stats.durable_lsn, primary->address, common_lsn);
    vv_plan plan = plan_from(f, VV_PLAN_REWIND, has_common, common_lsn, true);
    return has_common && !f->o.no_rewind ? ask_for(f, plan) : fetch(f, primary, plan);
}

static uint64_t after_link(vv_follower *f, const vv_sighting *primary, const vv_link_result *link) {
    if (link->followed && !f->in_trouble) {
        f->retry_ns = RETRY_NS_MIN;
        f->said[0] = '\0';
    }
    if (link->end != VV_LINK_TROUBLE && link->applied) /* over */
        f->in_trouble = false;
    f->in_trouble |= link->end == VV_LINK_TROUBLE;
    switch (link->end) {
    case VV_LINK_END: /* a candidate's (promote.c) */
    case VV_LINK_INTERRUPTED: break;
    case VV_LINK_LOST: say(f, VV_LOG_WARN, "lost", primary->address, link->words.text); break;
    case VV_LINK_NOT_PRIMARY:
        say(f, VV_LOG_INFO, "no primary any more:", primary->address, link->words.text);
        memcpy(f->named, link->primary, sizeof f->named);
        break;
    case VV_LINK_STALE: say(f, VV_LOG_WARN, "superseded:", primary->address, link->words.text); break;
    case VV_LINK_FOREIGN:
    case VV_LINK_DENIED:
        say(f, VV_LOG_ERROR, "not let in by", primary->address, link->words.text);
        return RETRY_SLOW_NS;
    case VV_LINK_DIVERGED: return part(f, primary, link->has_common, link->common_lsn);
    case VV_LINK_TRIMMED:
        vv_log(f->o.log, VV_LOG_WARN, "trimmed: %s has no longer what follows here: %s", primary->address,
               link->words.text);
        return fetch(f, primary, plan_from(f, VV_PLAN_INSTALL, false, 0, false));
    case VV_LINK_TROUBLE: say(f, VV_LOG_ERROR, "can't follow", primary->address, link->words.text); break;
    }
    return next_retry(f);
}

static uint64_t link_to(vv_follower *f, const vv_sighting *primary) {
    vv_link_result link;
    vv_peer *peer = connect(f, primary->address);
    if (!peer)
        return RETRY_SLOW_NS;
    memcpy(f->named, primary->address, sizeof f->named);
    vv_follow_link_options options = {.db = f->o.db,
                                      .replication = f->o.replication,
                                      .log = f->o.log,
                                      .peer = peer,
                                      .address = primary->address,
                                      .timeout_ns = f->o.config->replication_timeout_us * VV_NS_PER_US,
                                      .quiet = f->in_trouble,
                                      .begin = note_role,
                                      .arg = f};
    vv_follow_link_run(&options, &link);
    disconnect(f, peer);
    return wanted(f) ? after_link(f, primary, &link) : 0;
}

/* It was a primary until now: whatever it has written is to be over, see the head. What the plan cuts is
 * behind what both logs have, so it holds for writes that come until then, too. */
static uint64_t come_back_as_follower(vv_follower *f, const vv_sighting *primary, bool parted,
                                      uint64_t common_lsn) {
    varve_error words = {""};
    varve_status st = vv_replication_promise(f->o.replication, vv_sighting_epoch(primary), &words);
    if (!varve_ok(st) && st.reason != VV_SUB_EPOCH_TOO_OLD) { /* which says that it is promised already */
        say(f, VV_LOG_ERROR, "can't promise to follow", primary->address, words.text);
        return next_retry(f);
    }
    if (parted)
        return part(f, primary, true, common_lsn);
    vv_log(f->o.log, VV_LOG_INFO, "starting again, to follow %s", primary->address);
    return ask_for(f, plan_from(f, VV_PLAN_RESTART, false, 0, false));
}

static bool is_former_primary(vv_follower *f) {
    vv_mutex_lock(&f->mu.lock);
    bool former = f->mu.was_primary;
    vv_mutex_unlock(&f->mu.lock);
    return former;
}

static uint64_t follow(vv_follower *f, const vv_sighting *primary) {
    varve_epoch own[VARVE_EPOCHS_MAX];
    size_t own_count = varve_epochs_get(f->o.db, own);
    varve_stats stats;
    uint64_t common_lsn = 0;
    varve_stats_get(f->o.db, &stats);
    bool known = varve_epochs_common_lsn(own, own_count, stats.durable_lsn, primary->history,
                                         primary->history_count, primary->durable_lsn, &common_lsn);
    bool parted = !known || common_lsn < stats.durable_lsn;
    if (is_former_primary(f))
        return come_back_as_follower(f, primary, parted && known && !f->o.no_rewind, common_lsn);
    return parted ? part(f, primary, known, common_lsn) : link_to(f, primary);
}

/* Among those that are known, the one that was followed last, or is to be, first. */
static vv_find_result find(vv_follower *f, vv_sighting *out, vv_error *words) {
    vv_address addresses[VV_DISCOVERY_MAX];
    varve_stats stats;
    varve_stats_get(f->o.db, &stats);
    uint64_t least_epoch = VV_MAX(stats.promised_epoch, stats.epoch);
    if (!f->named[0])
        vv_replication_get_primary(f->o.replication, f->named);
    size_t count = vv_discovery_addresses(f->o.config, f->named, addresses);
    if (count == 0) {
        snprintf(words->text, sizeof words->text, "neither FOLLOW nor PEERS says where to look");
        return VV_FIND_NONE;
    }
    vv_find_result found =
        vv_discovery_find(f->discovery, addresses, 1, least_epoch, ASK_TIMEOUT_NS, out, words);
    if (found != VV_FIND_OK && count > 1)
        found = vv_discovery_find(f->discovery, addresses, count, least_epoch, ASK_TIMEOUT_NS, out, words);
    if (found != VV_FIND_OK)
        f->named[0] = '\0';
    return found;
}

static uint64_t find_and_follow(vv_follower *f) {
    vv_sighting *primary = vv_alloc(sizeof *primary);
    vv_error words;
    uint64_t pause_ns;
    if (!primary)
        return RETRY_NS_MAX;
    vv_find_result found = find(f, primary, &words);
    if (found == VV_FIND_OK && wanted(f)) {
        pause_ns = follow(f, primary);
    } else if (found == VV_FIND_HOPELESS) {
        say(f, VV_LOG_ERROR, "no primary is found that this server may follow", "", words.text);
        pause_ns = RETRY_SLOW_NS;
    } else {
        if (wanted(f))
            say(f, VV_LOG_WARN, "no primary is found", "", words.text);
        pause_ns = next_retry(f);
    }
    vv_free(primary);
    return pause_ns;
}

static void run(void *arg) {
    vv_follower *f = arg;
    while (begin_turn(f)) {
        uint64_t pause_ns = UNTIL_WOKEN;
        if (vv_replication_role(f->o.replication) == VV_ROLE_PRIMARY)
            pause_ns = look_for_newer(f);
        else if (!has_plan(f))
            pause_ns = find_and_follow(f);
        if (pause_ns > 0)
            rest(f, pause_ns);
    }
}

/* ---- promotions ---- */

static void pause_for_promotion(void *arg) {
    vv_follower *f = arg;
    vv_mutex_lock(&f->mu.lock);
    f->mu.paused = true;
    interrupt(f);
    while (!f->mu.idle)
        vv_cond_wait(&f->mu.changed, &f->mu.lock);
    vv_mutex_unlock(&f->mu.lock);
}

static void go_on_after_promotion(void *arg) {
    vv_follower *f = arg;
    vv_mutex_lock(&f->mu.lock);
    f->mu.paused = false;
    vv_cond_broadcast(&f->mu.changed);
    vv_mutex_unlock(&f->mu.lock);
}

/* The thread is paused, so that role_noted and the file are ours. */
static vv_status note_promotion(void *arg, uint64_t epoch, vv_error *err) {
    vv_follower *f = arg;
    vv_role_file file = {.role = VV_ROLE_PRIMARY, .epoch = epoch};
    snprintf(file.follow, sizeof file.follow, "%s", f->o.config->follow);
    f->role_noted = false;
    VV_TRY(vv_role_file_write(f->o.config->data, &file, err));
    vv_mutex_lock(&f->mu.lock);
    f->mu.was_primary = true;
    if (f->mu.plan.kind != VV_PLAN_NONE) /* its stop is under way; the log is to stay as it is */
        f->mu.plan.kind = VV_PLAN_RESTART;
    vv_mutex_unlock(&f->mu.lock);
    return VV_STATUS_OK;
}

void vv_follower_look(vv_follower *f) {
    vv_mutex_lock(&f->mu.lock);
    f->mu.woken = true;
    vv_cond_broadcast(&f->mu.changed);
    vv_mutex_unlock(&f->mu.lock);
}

/* ---- life ---- */

vv_status vv_follower_start(const vv_follower_options *options, vv_follower **out, vv_error *err) {
    vv_follower *f = *out = vv_alloc_zeroed(sizeof *f);
    if (!f)
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "start following");
    f->o = *options;
    f->retry_ns = RETRY_NS_MIN;
    vv_mutex_init(&f->mu.lock);
    vv_cond_init(&f->mu.changed);
    f->mu.was_primary = vv_replication_role(options->replication) == VV_ROLE_PRIMARY;
    if (!f->mu.was_primary) /* until it hears of a primary it may be behind */
        vv_replication_set_lag(options->replication, &(vv_lag){.applied_lsn = varve_durable_lsn(options->db),
                                                               .behind_since_ns = vv_clock_mono_ns()});
    if (getrandom(&f->random, sizeof f->random, 0) != (ssize_t)sizeof f->random)
        f->random = vv_clock_mono_ns(); /* for waits alone */
    uint8_t database_id[VARVE_DATABASE_ID_BYTES];
    varve_database_id(options->db, database_id);
    vv_status st = vv_discovery_create(options->config, vv_replication_node(options->replication),
                                       database_id, &f->discovery);
    if (!vv_ok(st))
        st = vv_fail(err, st, "start following");
    if (vv_ok(st)) {
        vv_promotion_hooks hooks = {.arg = f,
                                    .stop = pause_for_promotion,
                                    .resume = go_on_after_promotion,
                                    .promoted = note_promotion};
        vv_replication_set_hooks(options->replication, &hooks);
        st = vv_thread_start(&f->thread, "varve-follow", run, f);
        f->started = vv_ok(st);
        if (!f->started)
            st = vv_fail(err, st, "start following");
    }
    if (!vv_ok(st)) {
        vv_follower_destroy(f);
        *out = NULL;
    }
    return st;
}

void vv_follower_stop(vv_follower *f) {
    if (!f || !f->started)
        return;
    vv_mutex_lock(&f->mu.lock);
    f->mu.stopping = true;
    interrupt(f);
    vv_mutex_unlock(&f->mu.lock);
    vv_thread_join(f->thread);
    f->started = false;
}

vv_plan vv_follower_plan(const vv_follower *f) {
    return f->mu.plan;
}

void vv_follower_destroy(vv_follower *f) {
    if (!f)
        return;
    vv_discovery_destroy(f->discovery);
    vv_cond_deinit(&f->mu.changed);
    vv_mutex_deinit(&f->mu.lock);
    vv_free(f);
}

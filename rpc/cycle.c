/*
 * cycle.c - one thread, which waits for signals and does everything else between two waits.
 *
 * Signals are blocked in all threads and taken by sigwait() here, so what they cause are ordinary calls. A
 * plan is announced by one more, SIGRTMIN, sent to this thread alone: so there is one place to wait.
 *
 * Why a plan can be interrupted anywhere: it is not remembered. A copy that was fetched stays where it is,
 * varve_install() and varve_rewind() are completed by the next varve_open(), and a follower that starts again
 * finds out again what there is to do.
 */
#include "rpc/cycle.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "base/sync.h"
#include "rpc/discovery.h"
#include "rpc/fetch.h"
#include "rpc/node.h"
#include "rpc/role_file.h"
#include "rpc/server.h"

#define SIGPLAN           SIGRTMIN
#define FIND_TIMEOUT_NS   VV_NS_PER_S
#define FIND_AGAIN_NS     VV_NS_PER_S
#define FIND_WORDS_NS     (5 * VV_NS_PER_S)
#define FETCH_GIVE_UP_NS  (30 * VV_NS_PER_S)
#define PLAN_AGAIN_NS     (5 * VV_NS_PER_S)
#define LISTEN_AGAIN_NS   (200 * VV_NS_PER_MS)
#define LISTEN_GIVE_UP_NS (20 * VV_NS_PER_S)
#define SIDE_FILES_MAX    1000
#define PATH_BYTES        (VV_SERVER_DATA_BYTES_MAX + 128)

typedef struct cycle {
    const vv_cycle_options *o;
    vv_server_config config; /* with real ports, once they are known */
    const vv_logger *log;
    sigset_t signals;
    pthread_t thread;
    int ended_by; /* a signal; 0: it goes on */
    bool announced;
    bool reload_asked; /* while there was no server to do it */
    vv_reload *reload;
    vv_http *http; /* from the start to the end; NULL: none */
    vv_server_run run;
} cycle;

/* ---- signals ---- */

static void signal_set(sigset_t *set) {
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGPLAN);
}

void vv_cycle_block_signals(void) {
    sigset_t set;
    signal_set(&set);
    /* Before grpc_init() makes the first thread: one that leaves them open would be ended by them, and the
     * process with it, whenever they come while nobody is in sigwait(). */
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

/* Wait for at most so long. True: it is to end. */
static bool pause_for(cycle *c, uint64_t ns) {
    uint64_t until = vv_clock_mono_ns() + ns;
    for (;;) {
        uint64_t now = vv_clock_mono_ns(), left = now < until ? until - now : 0;
        struct timespec wait = {.tv_sec = (time_t)(left / VV_NS_PER_S),
                                .tv_nsec = (long)(left % VV_NS_PER_S)};
        int got = sigtimedwait(&c->signals, NULL, &wait);
        if (got == SIGTERM || got == SIGINT)
            c->ended_by = got;
        c->reload_asked |= got == SIGHUP;
        if (c->ended_by || (got < 0 && errno == EAGAIN))
            return c->ended_by != 0;
    }
}

static void say_signal(const cycle *c, const char *what) {
    vv_log(c->log, VV_LOG_INFO, "SIG%s: %s", sigabbrev_np(c->ended_by), what);
}

static void plan_is_made(void *arg) {
    const cycle *c = arg;
    pthread_kill(c->thread, SIGPLAN);
}

/* ---- a copy for an empty directory ---- */

static bool is_of_a_database(const char *name) {
    size_t bytes = strlen(name);
    return strcmp(name, "MANIFEST") == 0 || strncmp(name, "wal-", 4) == 0 ||
           strncmp(name, "INSTALL", 7) == 0 || (bytes > 4 && strcmp(name + bytes - 4, ".sst") == 0);
}

/* Is there any piece of one? Whatever is wrong with it is for the engine to say. */
static bool has_database(const char *data) {
    bool found = false;
    DIR *dir = opendir(data);
    for (const struct dirent *e = dir ? readdir(dir) : NULL; e && !found; e = readdir(dir))
        found = is_of_a_database(e->d_name);
    if (dir)
        closedir(dir);
    return found;
}

static bool go_on(void *arg, uint64_t done_bytes, uint64_t total_bytes) {
    (void)done_bytes, (void)total_bytes;
    return !pause_for(arg, 0);
}

/* The primary, asked for until there is one. False: it is to end. */
static bool find_primary(cycle *c, vv_discovery *discovery, vv_sighting *primary) {
    vv_address addresses[VV_DISCOVERY_MAX];
    vv_error words;
    uint64_t said_ns = 0;
    size_t count = vv_discovery_addresses(&c->config, "", addresses);
    for (;;) {
        if (vv_discovery_find(discovery, addresses, count, 0, FIND_TIMEOUT_NS, primary, &words) == VV_FIND_OK)
            return true;
        uint64_t now = vv_clock_mono_ns();
        if (said_ns == 0 || now - said_ns >= FIND_WORDS_NS) {
            vv_log(c->log, VV_LOG_WARN, "there is no primary to get a copy from: %s", words.text);
            said_ns = now;
        }
        if (pause_for(c, FIND_AGAIN_NS))
            return false;
    }
}

static vv_status fetch_from(cycle *c, const char *address, const char *node, const char *dir, vv_error *err) {
    vv_peer *peer;
    vv_fetch_info info;
    VV_TRY(vv_discovery_connect(&c->config, address, &peer, err));
    vv_fetch_options options = {.peer = peer,
                                .dir = dir,
                                .slot = node,
                                .engine = c->o->engine,
                                .parallel = (uint32_t)c->config.fetch_parallel,
                                .give_up_ns = FETCH_GIVE_UP_NS,
                                .progress = go_on,
                                .arg = c,
                                .log = c->log};
    vv_log(c->log, VV_LOG_INFO, "%s is empty: fetching a copy from %s", c->config.data, address);
    vv_status st = vv_fetch(&options, &info, err);
    vv_peer_destroy(peer);
    if (vv_ok(st))
        vv_log(c->log, VV_LOG_INFO, "the copy is there, of LSN %" PRIu64, info.lsn);
    return st;
}

/* From the copy to the database. A follower's, which the file says before there is one. */
static vv_status install(cycle *c, const char *from, const char *aside, vv_error *err) {
    const vv_role_file role = {.role = VV_ROLE_FOLLOWER};
    varve_error words = {""};
    VV_TRY(vv_role_file_write(c->config.data, &role, err));
    varve_status st = varve_install(c->config.data, from, aside, c->o->engine, &words);
    if (varve_ok(st))
        return VV_STATUS_OK;
    return vv_fail(err, vv_status_make((vv_code)st.code, (vv_sub)st.reason, 0), "%s", words.text);
}

/* Until it is there, or it is to end, or something fails that trying again doesn't mend. */
static vv_status get_copy(cycle *c, vv_discovery *discovery, vv_sighting *primary, const char *node,
                          vv_error *err) {
    char dir[PATH_BYTES];
    snprintf(dir, sizeof dir, "%s/" VV_BOOTSTRAP_DIR, c->config.data);
    while (find_primary(c, discovery, primary)) {
        vv_error words = {""};
        vv_status st = fetch_from(c, primary->address, node, dir, &words);
        if (vv_ok(st))
            return install(c, dir, NULL, err);
        if (c->ended_by)
            break;
        vv_log(c->log, VV_LOG_WARN, "fetching a copy from %s: %s", primary->address, words.text);
        if (pause_for(c, FIND_AGAIN_NS))
            break;
    }
    return VV_STATUS_OK;
}

static vv_status bootstrap(cycle *c, vv_error *err) {
    char node[VARVE_SLOT_NAME_BYTES_MAX + 1];
    vv_discovery *discovery = NULL;
    if (!c->config.follow[0] || has_database(c->config.data))
        return VV_STATUS_OK;
    if (mkdir(c->config.data, 0755) != 0 && errno != EEXIST)
        return vv_fail(err, vv_status_errno(errno), "%s", c->config.data);
    VV_TRY(vv_node_name(c->config.data, c->config.node_name, node, err));
    vv_sighting *primary = vv_alloc(sizeof *primary);
    vv_status st = primary ? vv_discovery_create(&c->config, node, NULL, &discovery)
                           : vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    if (vv_ok(st))
        st = get_copy(c, discovery, primary, node, err);
    else
        st = vv_fail(err, st, "fetch a copy");
    vv_discovery_destroy(discovery);
    vv_free(primary);
    return st;
}

/* ---- serving ---- */

/* Ports that were chosen are kept. */
static void keep_addresses(cycle *c, const vv_server *server) {
    for (size_t i = 0; vv_server_address(server, i); i++) {
        snprintf(c->config.listen[i], sizeof c->config.listen[i], "%.*s", VV_SERVER_ADDRESS_BYTES_MAX,
                 vv_server_address(server, i));
        if (!c->announced)
            c->o->listening(c->o->arg, vv_server_address(server, i));
    }
    if (!c->announced && c->http)
        c->o->listening(c->o->arg, vv_http_address(c->http));
    c->announced = true;
}

/* A port that was free for a moment may be somebody's for a moment: of a connection, say, that leaves from
 * it. */
static vv_status start(cycle *c, vv_server **server, vv_error *err) {
    uint64_t give_up_ns = vv_clock_mono_ns() + LISTEN_GIVE_UP_NS;
    c->run = (vv_server_run){.no_rewind = c->run.no_rewind,
                             .serve_first = c->run.serve_first,
                             .planned = plan_is_made,
                             .arg = c,
                             .http = c->http,
                             .reload = c->reload};
    for (;;) {
        vv_status st = vv_server_start_run(&c->config, c->o->engine, c->log, &c->run, server, err);
        if (vv_ok(st) || !c->announced || vv_clock_mono_ns() > give_up_ns)
            return st;
        vv_log(c->log, VV_LOG_WARN, "start: %s; trying again", err->text);
        if (pause_for(c, LISTEN_AGAIN_NS))
            return VV_STATUS_OK;
    }
}

static void reload(cycle *c, vv_server *server) {
    vv_error err;
    c->reload_asked = false;
    vv_status_ignore(vv_server_reload(server, "SIGHUP", NULL, &err), "it has logged what is wrong");
}

/* Until the server is to stop: for good, or for a plan. */
static void wait_for_end(cycle *c, vv_server *server) {
    if (c->reload_asked)
        reload(c, server);
    for (;;) {
        int got;
        if (sigwait(&c->signals, &got) != 0)
            continue;
        if (got == SIGHUP) {
            reload(c, server);
            continue;
        }
        if (got == SIGTERM || got == SIGINT)
            c->ended_by = got;
        return;
    }
}

/* ---- stopping ---- */

/* Listens for signals while the cycle's own thread drains. */
typedef struct impatience {
    cycle *cycle;
    vv_server *server;
    _Atomic bool over;
    _Atomic int ended_by;
    pthread_t thread;
} impatience;

/* The first that asks for the end, while the server stops for a plan, makes it the end; one more, or any
 * while it is the end, takes it the patience. */
static void listen_for_signals(void *arg) {
    impatience *i = arg;
    int got;
    for (;;) {
        if (sigwait(&i->cycle->signals, &got) != 0)
            continue;
        if (got == SIGPLAN && atomic_load(&i->over))
            return;
        if (got != SIGTERM && got != SIGINT) /* too late to change anything */
            continue;
        if (atomic_exchange(&i->ended_by, got) == 0)
            continue;
        vv_log(i->cycle->log, VV_LOG_WARN, "second signal: calls in flight are cancelled");
        vv_server_cancel(i->server);
    }
}

static vv_status stop(cycle *c, vv_server *server) {
    impatience i = {.cycle = c, .server = server, .ended_by = c->ended_by};
    vv_status listening = vv_thread_start(&i.thread, "varve-signal", listen_for_signals, &i);
    vv_server_drain(server);
    if (vv_ok(listening)) {
        atomic_store(&i.over, true);
        pthread_kill(i.thread, SIGPLAN);
        vv_thread_join(i.thread);
        c->ended_by = atomic_load(&i.ended_by);
    }
    return vv_server_stop(server);
}

/* ---- between two runs ---- */

/* A name that is not taken: DATA/diverged-EPOCH-LSN and, where there is one already, a number more. */
static void side_path(const cycle *c, const vv_plan *plan, const char *suffix, char path[PATH_BYTES]) {
    char number[16] = "";
    struct stat info;
    for (int i = 2; i < SIDE_FILES_MAX; i++) {
        snprintf(path, PATH_BYTES, "%s/diverged-%" PRIu64 "-%" PRIu64 "%s%s", c->config.data, plan->epoch,
                 plan->lsn, number, suffix);
        if (lstat(path, &info) != 0)
            return;
        snprintf(number, sizeof number, "-%d", i);
    }
}

static vv_status rewind_to(cycle *c, const vv_plan *plan, vv_error *err) {
    char path[PATH_BYTES];
    uint64_t cut = 0;
    varve_error words = {""};
    side_path(c, plan, ".log", path);
    varve_status st = varve_rewind(c->config.data, c->o->engine, plan->lsn, path, &cut, &words);
    if (st.code == VARVE_TRIMMED) {
        vv_log(c->log, VV_LOG_WARN,
               "what is behind LSN %" PRIu64
               " is in tables already and can't be cut: a whole copy is fetched "
               "instead, and this database is kept beside it",
               plan->lsn);
        c->run.no_rewind = true;
        return VV_STATUS_OK;
    }
    if (!varve_ok(st))
        return vv_fail(err, vv_status_make((vv_code)st.code, (vv_sub)st.reason, 0), "cut the log: %s",
                       words.text);
    vv_log(c->log, VV_LOG_WARN,
           "%" PRIu64 " writes behind LSN %" PRIu64 ", which the primary doesn't have, were moved to %s", cut,
           plan->lsn, path);
    return VV_STATUS_OK;
}

static vv_status install_copy(cycle *c, const vv_plan *plan, vv_error *err) {
    char from[PATH_BYTES], aside[PATH_BYTES];
    snprintf(from, sizeof from, "%s/" VV_BOOTSTRAP_DIR, c->config.data);
    side_path(c, plan, "", aside);
    vv_status st = install(c, from, plan->keep ? aside : NULL, err);
    if (!vv_ok(st))
        return vv_wrap(err, st, "install the copy");
    if (plan->keep)
        vv_log(c->log, VV_LOG_WARN, "the database with writes that the primary doesn't have is kept in %s",
               aside);
    return VV_STATUS_OK;
}

/* A failure leaves the database as it was; the server is started with it, to let reads in, and plans again.
 */
static void carry_out(cycle *c) {
    vv_plan plan = c->run.plan;
    vv_error words = {""};
    vv_status st = VV_STATUS_OK;
    c->run.no_rewind = c->run.serve_first = false;
    vv_reload_catch_up(c->reload, &c->config, c->o->engine);
    varve_options_set_group_callback(c->o->engine, NULL, NULL); /* of the run that is over */
    varve_options_set_durable_callback(c->o->engine, NULL, NULL);
    if (plan.kind == VV_PLAN_REWIND)
        st = rewind_to(c, &plan, &words);
    else if (plan.kind == VV_PLAN_INSTALL)
        st = install_copy(c, &plan, &words);
    if (vv_ok(st))
        return;
    vv_log(c->log, VV_LOG_ERROR, "%s", words.text);
    c->run.serve_first = true;
    (void)pause_for(c, PLAN_AGAIN_NS);
}

/* ---- the whole ---- */

/* From its start to its end. */
static vv_status run(cycle *c, vv_server *server, vv_error *err) {
    keep_addresses(c, server);
    wait_for_end(c, server);
    if (c->ended_by)
        say_signal(c, "draining");
    else
        vv_log(c->log, VV_LOG_INFO, "stopping, to start again");
    vv_status st = stop(c, server);
    return vv_ok(st) ? st
                     : vv_fail(err, st, "close: %s; writes that asked for no durability may be lost",
                               vv_code_text(st.code));
}

static vv_status serve(cycle *c, vv_error *err) {
    while (!c->ended_by) {
        vv_server *server;
        VV_TRY(start(c, &server, err));
        if (server) /* else there is a plan already, or it is to end */
            VV_TRY(run(c, server, err));
        if (!c->ended_by)
            carry_out(c);
    }
    vv_log(c->log, VV_LOG_INFO, "all is on disk");
    return VV_STATUS_OK;
}

/* First of all: a follower that fetches a copy for hours is alive, and says so. */
static vv_status start_http(cycle *c, vv_error *err) {
    vv_http_options o = {.address = c->config.metrics_listen,
                         .unix_mode = vv_server_unix_modes[c->config.unix_mode],
                         .log = c->log};
    return o.address[0] ? vv_http_start(&o, &c->http, err) : VV_STATUS_OK;
}

vv_status vv_cycle_run(const vv_cycle_options *options, vv_error *err) {
    cycle *c = vv_alloc_zeroed(sizeof *c);
    if (!c)
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "start");
    c->o = options;
    c->config = *options->config;
    c->log = options->log;
    c->thread = pthread_self();
    signal_set(&c->signals);
    vv_reload_options reload = {.argv = options->argv,
                                .environment = options->environment,
                                .config = options->config,
                                .engine = options->engine,
                                .applied = options->applied,
                                .arg = options->arg};
    vv_status st = vv_reload_create(&reload, &c->reload);
    st = vv_ok(st) ? start_http(c, err) : vv_fail(err, st, "start");
    if (vv_ok(st))
        st = bootstrap(c, err);
    if (vv_ok(st) && c->ended_by)
        say_signal(c, "no copy was fetched; what there is of it is kept");
    else if (vv_ok(st))
        st = serve(c, err);
    vv_http_stop(c->http);
    vv_reload_destroy(c->reload);
    vv_free(c);
    return st;
}

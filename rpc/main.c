/*
 * main.c - varved: a Varve database served over gRPC.
 *
 * Exit codes: 0 ended by SIGTERM or SIGINT with everything on disk, 1 failed at run time, 2 usage or
 * configuration.
 */
#include <errno.h>
#include <grpc/grpc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/compiler.h"
#include "base/sync.h"
#include "rpc/config.h"
#include "rpc/grpc_transport.h"
#include "rpc/server.h"
#include "rpc/stderr_log.h"

enum { EXIT_RUN_TIME = 1, EXIT_USAGE = 2 };

#if !defined(VV_ASAN) && !defined(VV_TSAN)
/* Read by jemalloc before main(). Memory of a burst of calls goes back to the system within a second. */
extern const char *malloc_conf;
__attribute__((visibility("default"))) const char *malloc_conf =
    "background_thread:true,dirty_decay_ms:500,muzzy_decay_ms:0";
#endif

/* Listens for the second signal while main() drains. */
typedef struct impatience {
    sigset_t signals;
    vv_server *server;
    const vv_logger *log;
    _Atomic bool over;
    pthread_t thread;
} impatience;

static void wait_for_second(void *arg) {
    impatience *i = arg;
    int signal_number;
    for (;;) {
        if (sigwait(&i->signals, &signal_number) != 0)
            continue;
        if (atomic_load(&i->over))
            return;
        if (signal_number == SIGHUP) /* too late to change anything */
            continue;
        vv_log(i->log, VV_LOG_WARN, "second signal: calls in flight are cancelled");
        vv_server_cancel(i->server);
    }
}

/* Drain and close; a second signal meanwhile cancels what is in flight. */
static vv_status stop(vv_server *server, const sigset_t *signals, const vv_logger *log) {
    impatience i = {.signals = *signals, .server = server, .log = log};
    vv_status watching = vv_thread_start(&i.thread, "varve-signal", wait_for_second, &i);
    vv_server_drain(server);
    if (vv_ok(watching)) {
        atomic_store(&i.over, true);
        pthread_kill(i.thread, SIGTERM);
        vv_thread_join(i.thread);
    }
    return vv_server_stop(server);
}

/* Reload at each SIGHUP, until a signal that ends the server; its number. Signals are taken here and nowhere
 * else (they are blocked in every thread), so a reload is an ordinary call and not a handler's. */
static int wait_for_end(vv_server *server, const sigset_t *signals, const vv_logger *log) {
    for (;;) {
        int signal_number;
        if (sigwait(signals, &signal_number) != 0)
            continue;
        if (signal_number != SIGHUP)
            return signal_number;
        vv_error err;
        vv_status st = vv_server_reload(server, &err);
        if (vv_ok(st))
            vv_log(log, VV_LOG_INFO, "SIGHUP: files read again");
        else
            vv_log(log, VV_LOG_ERROR, "SIGHUP: nothing is changed: %s", err.text);
    }
}

static int serve(const vv_server_config *config, varve_options *engine, const sigset_t *signals,
                 const vv_logger *log) {
    vv_server *server;
    vv_error err;
    vv_status st = vv_server_start(config, engine, log, &server, &err);
    if (!vv_ok(st)) {
        fprintf(stderr, "varved: %s\n", err.text);
        return st.sub == VV_SUB_BAD_OPTION ? EXIT_USAGE : EXIT_RUN_TIME;
    }
    for (size_t i = 0; vv_server_address(server, i); i++)
        printf("listening on %s\n", vv_server_address(server, i));
    fflush(stdout);

    int signal_number = wait_for_end(server, signals, log);
    vv_log(log, VV_LOG_INFO, "SIG%s: draining", sigabbrev_np(signal_number));
    st = stop(server, signals, log);
    if (!vv_ok(st)) {
        vv_log(log, VV_LOG_ERROR, "close: %s; writes that asked for no durability may be lost",
               vv_code_text(st.code));
        return EXIT_RUN_TIME;
    }
    vv_log(log, VV_LOG_INFO, "all is on disk");
    return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
    (void)argc;
    varve_options *engine = varve_options_create();
    if (!engine) {
        fprintf(stderr, "varved: out of memory\n");
        return EXIT_RUN_TIME;
    }
    vv_server_config config;
    vv_server_action action;
    vv_error err;
    int code = EXIT_SUCCESS;
    vv_status st = vv_server_config_load((const char *const *)argv + 1, (const char *const *)environ, &config,
                                         engine, &action, &err);
    if (!vv_ok(st)) {
        fprintf(stderr, "varved: %s\n", err.text);
        code = EXIT_USAGE;
    } else if (action == VV_SERVER_HELP) {
        vv_server_config_help(stdout);
    } else if (action == VV_SERVER_VERSION) {
        printf("varved %s\n", varve_version());
    } else {
        vv_stderr_log lines;
        vv_stderr_log_init(&lines, (vv_log_format)config.log_format, (uint32_t)config.log_lines_per_second);
        vv_logger log = {.write = vv_stderr_log_write,
                         .event = vv_stderr_log_event,
                         .arg = &lines,
                         .least = (vv_log_level)config.log_level};
        sigset_t signals;
        sigemptyset(&signals);
        sigaddset(&signals, SIGTERM);
        sigaddset(&signals, SIGINT);
        sigaddset(&signals, SIGHUP);
        /* Before grpc_init() makes the first thread: one that leaves them open would be ended by them, and
         * the process with it, whenever they come while main() is not in sigwait(). */
        pthread_sigmask(SIG_BLOCK, &signals, NULL);
        signal(SIGPIPE, SIG_IGN);
        vv_grpc_log_to(&log);
        grpc_init();
        code = serve(&config, engine, &signals, &log);
        grpc_shutdown_blocking();
        vv_grpc_log_to(NULL);
        vv_stderr_log_deinit(&lines);
    }
    varve_options_destroy(engine);
    return code;
}

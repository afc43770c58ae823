/*
 * main.c - varved: a Varve database served over gRPC.
 *
 * Exit codes: 0 ended by SIGTERM or SIGINT with everything on disk, 1 failed at run time, 2 usage or
 * configuration.
 */
#include <grpc/grpc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/compiler.h"
#include "rpc/config.h"
#include "rpc/cycle.h"
#include "rpc/grpc_transport.h"
#include "rpc/stderr_log.h"

enum { EXIT_RUN_TIME = 1, EXIT_USAGE = 2 };

#if !defined(VV_ASAN) && !defined(VV_TSAN)
/* Read by jemalloc before main(). Memory of a burst of calls goes back to the system within a second. */
extern const char *malloc_conf;
__attribute__((visibility("default"))) const char *malloc_conf =
    "background_thread:true,dirty_decay_ms:500,muzzy_decay_ms:0";
#endif

static void say_listening(void *arg, const char *address) {
    (void)arg;
    printf("listening on %s\n", address);
    fflush(stdout);
}

static int serve(const vv_server_config *config, varve_options *engine, const vv_logger *log) {
    vv_cycle_options options = {.config = config, .engine = engine, .log = log, .listening = say_listening};
    vv_error err = {""};
    vv_status st = vv_cycle_run(&options, &err);
    if (vv_ok(st))
        return EXIT_SUCCESS;
    fprintf(stderr, "varved: %s\n", err.text);
    return st.sub == VV_SUB_BAD_OPTION ? EXIT_USAGE : EXIT_RUN_TIME;
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
    } else if (action == VV_SERVER_MANUAL) {
        vv_server_config_manual(stdout);
    } else if (action == VV_SERVER_PRINT_CONFIG) {
        vv_server_config_print(stdout, &config, engine);
    } else if (action == VV_SERVER_VERSION) {
        printf("varved %s\n", varve_version());
    } else {
        vv_stderr_log lines;
        vv_stderr_log_init(&lines, (vv_log_format)config.log_format, (uint32_t)config.log_lines_per_second);
        vv_logger log = {.write = vv_stderr_log_write,
                         .event = vv_stderr_log_event,
                         .arg = &lines,
                         .least = (vv_log_level)config.log_level};
        vv_cycle_block_signals();
        signal(SIGPIPE, SIG_IGN);
        vv_grpc_log_to(&log);
        grpc_init();
        code = serve(&config, engine, &log);
        grpc_shutdown_blocking();
        vv_grpc_log_to(NULL);
        vv_stderr_log_deinit(&lines);
    }
    varve_options_destroy(engine);
    return code;
}

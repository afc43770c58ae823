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

typedef struct program {
    const char *const *argv;
    vv_server_config config;
    vv_stderr_log lines;
    vv_logger log;
} program;

/* A reload was applied. */
static void configure_log(void *arg, const vv_server_config *config) {
    program *p = arg;
    vv_stderr_log_set(&p->lines, (vv_log_format)config->log_format, (uint32_t)config->log_lines_per_second);
    atomic_store_explicit(&p->log.least, (vv_log_level)config->log_level, memory_order_relaxed);
}

static int serve(program *p, varve_options *engine) {
    vv_cycle_options options = {.config = &p->config,
                                .engine = engine,
                                .argv = p->argv,
                                .environment = (const char *const *)environ,
                                .applied = configure_log,
                                .log = &p->log,
                                .listening = say_listening,
                                .arg = p};
    vv_error err = {""};
    vv_status st = vv_cycle_run(&options, &err);
    if (vv_ok(st))
        return EXIT_SUCCESS;
    fprintf(stderr, "varved: %s\n", err.text);
    return st.sub == VV_SUB_BAD_OPTION ? EXIT_USAGE : EXIT_RUN_TIME;
}

/* From the configuration to the end. */
static int run(program *p, varve_options *engine) {
    vv_stderr_log_init(&p->lines, (vv_log_format)p->config.log_format,
                       (uint32_t)p->config.log_lines_per_second);
    p->log.write = vv_stderr_log_write;
    p->log.event = vv_stderr_log_event;
    p->log.arg = &p->lines;
    atomic_init(&p->log.least, (vv_log_level)p->config.log_level);
    vv_cycle_block_signals();
    signal(SIGPIPE, SIG_IGN);
    vv_grpc_log_to(&p->log);
    grpc_init();
    int code = serve(p, engine);
    grpc_shutdown_blocking();
    vv_grpc_log_to(NULL);
    vv_stderr_log_deinit(&p->lines);
    return code;
}

int main(int argc, char **argv) {
    (void)argc;
    varve_options *engine = varve_options_create();
    if (!engine) {
        fprintf(stderr, "varved: out of memory\n");
        return EXIT_RUN_TIME;
    }
    static program p;
    vv_server_action action;
    vv_error err;
    int code = EXIT_SUCCESS;
    p.argv = (const char *const *)argv + 1;
    vv_status st =
        vv_server_config_load(p.argv, (const char *const *)environ, &p.config, engine, &action, &err);
    if (!vv_ok(st)) {
        fprintf(stderr, "varved: %s\n", err.text);
        code = EXIT_USAGE;
    } else if (action == VV_SERVER_HELP) {
        vv_server_config_help(stdout);
    } else if (action == VV_SERVER_MANUAL) {
        vv_server_config_manual(stdout);
    } else if (action == VV_SERVER_PRINT_CONFIG) {
        vv_server_config_print(stdout, &p.config, engine);
    } else if (action == VV_SERVER_VERSION) {
        printf("varved %s\n", varve_version());
    } else {
        code = run(&p, engine);
    }
    varve_options_destroy(engine);
    return code;
}

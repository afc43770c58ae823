/*
 * commands.c - the commands: read what they are given, call the client, write what it answers.
 *
 * Everything that can be wrong with the input is found before a client is opened, so that a usage error
 * neither connects nor touches a directory.
 */
#include "cli/commands.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/bytes.h"
#include "cli/client.h"
#include "cli/completion.h"
#include "cli/fetch.h"
#include "cli/load.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/repl.h"
#include "cli/script.h"
#include "cli/token.h"
#include "cli/top.h"

/* What a command works on, the caller's. */
typedef struct job {
    const vv_cli_args *args;
    vv_bytes key;
    vv_bytes value;
    vv_bytes prefix;
    vv_bytes start;
    vv_bytes end;
    vv_script script;
} job;

static vv_cli_exit failed(const vv_cli_args *args, const vv_client_error *err) {
    fprintf(stderr, "varve: %s: ", args->name);
    vv_output_error(stderr, err);
    fputc('\n', stderr);
    return VV_CLI_FAILED;
}

/* Of a command that calls the engine itself. */
static vv_cli_exit engine_failed(const vv_cli_args *args, varve_status st, const varve_error *words) {
    vv_client_error err;
    (void)vv_client_fail(&err, varve_code_name(st.code), st.reason ? varve_reason_name(st.reason) : "",
                         words->text);
    return failed(args, &err);
}

/* ---- input ---- */

static vv_cli_exit take_word(const vv_cli_args *args, const char *text, const char *what, vv_bytes *out) {
    if (!args->hex) {
        vv_bytes_append(out, text, strlen(text));
    } else if (!vv_bytes_from_hex(out, vv_slice_str(text))) {
        fprintf(stderr, "varve: %s: the %s is not hexadecimal: '%s'; with --hex it is pairs of digits\n",
                args->name, what, text);
        return VV_CLI_USAGE;
    }
    return VV_CLI_DONE;
}

static vv_cli_exit take_file(const vv_cli_args *args, FILE *file, const char *name, vv_bytes *out) {
    int error = vv_bytes_read(out, file, VARVE_VALUE_BYTES_MAX);
    if (error == 0)
        return VV_CLI_DONE;
    fprintf(stderr, "varve: %s: %s: %s\n", args->name, name,
            error == EFBIG ? "more than 1 GiB" : strerror(error));
    return VV_CLI_FAILED;
}

static vv_cli_exit take_value(const vv_cli_args *args, vv_bytes *out) {
    if (!args->value_file && strcmp(args->operands[1], "-") != 0)
        return take_word(args, args->operands[1], "value", out);
    if (!args->value_file || strcmp(args->value_file, "-") == 0)
        return take_file(args, stdin, "standard input", out);
    FILE *file = fopen(args->value_file, "rbe");
    if (!file) {
        fprintf(stderr, "varve: %s: %s: %s\n", args->name, args->value_file, strerror(errno));
        return VV_CLI_FAILED;
    }
    vv_cli_exit result = take_file(args, file, args->value_file, out);
    fclose(file);
    return result;
}

static vv_cli_exit take_script(const vv_cli_args *args, vv_script *script) {
    char message[VV_SCRIPT_MESSAGE_BYTES];
    vv_bytes text = {0};
    vv_cli_exit result = take_file(args, stdin, "standard input", &text);
    if (result != VV_CLI_DONE)
        goto out;
    result = VV_CLI_USAGE;
    if (!vv_script_parse(script, vv_bytes_slice(&text), args->hex, message))
        fprintf(stderr, "varve: batch: %s\n", message);
    else if (script->count == 0)
        fprintf(stderr, "varve: batch: there is no operation on standard input\n");
    else
        result = VV_CLI_DONE;
out:
    vv_bytes_deinit(&text);
    return result;
}

static vv_cli_exit take_range(job *j) {
    const vv_cli_args *args = j->args;
    vv_cli_exit result = VV_CLI_DONE;
    if (args->prefix)
        result = take_word(args, args->prefix, "prefix", &j->prefix);
    if (result == VV_CLI_DONE && args->start)
        result = take_word(args, args->start, "start", &j->start);
    if (result == VV_CLI_DONE && args->end)
        result = take_word(args, args->end, "end", &j->end);
    return result;
}

static vv_cli_exit take_input(job *j) {
    const vv_cli_args *args = j->args;
    if (args->verb == VV_CLI_BATCH)
        return take_script(args, &j->script);
    if (args->verb == VV_CLI_SCAN || args->verb == VV_CLI_WATCH)
        return take_range(j);
    if (args->verb != VV_CLI_PUT && args->verb != VV_CLI_GET && args->verb != VV_CLI_DELETE)
        return VV_CLI_DONE;
    vv_cli_exit result = take_word(args, args->operands[0], "key", &j->key);
    if (result == VV_CLI_DONE && args->verb == VV_CLI_PUT)
        result = take_value(args, &j->value);
    return result;
}

/* ---- the commands ---- */

static vv_cli_exit run_get(const job *j, vv_client *c, vv_client_error *err) {
    const vv_cli_args *args = j->args;
    vv_client_value value = {0};
    vv_cli_exit result = VV_CLI_DONE;
    if (!vv_client_get(c, vv_bytes_slice(&j->key), &value, err)) {
        result = failed(args, err);
    } else if (value.found) {
        vv_output_value(stdout, vv_bytes_slice(&j->key), &value, args->json, args->hex);
    } else {
        if (args->json)
            vv_output_not_found(stdout, vv_bytes_slice(&j->key), args->hex);
        else
            fprintf(stderr, "varve: get: key not found\n");
        result = VV_CLI_NOT_FOUND;
    }
    vv_bytes_deinit(&value.bytes);
    return result;
}

static vv_cli_exit run_write(const job *j, vv_client *c, vv_client_error *err) {
    const vv_cli_args *args = j->args;
    vv_slice key = vv_bytes_slice(&j->key), value = vv_bytes_slice(&j->value);
    uint64_t lsn = 0;
    bool fine;
    if (args->verb == VV_CLI_PUT)
        fine = vv_client_put(c, key, value, args->async, &lsn, err);
    else if (args->verb == VV_CLI_DELETE)
        fine = vv_client_del(c, key, args->async, &lsn, err);
    else
        fine = vv_client_write(c, j->script.ops, j->script.count, args->async, &lsn, err);
    if (!fine)
        return failed(args, err);
    if (args->json)
        vv_output_lsn(stdout, lsn, j->script.count);
    return VV_CLI_DONE;
}

static void show_entry(void *arg, const varve_entry *entry) {
    const vv_cli_args *args = arg;
    vv_output_entry(stdout, entry, args->keys_only, args->json, args->hex);
}

static vv_client_range range_of(const job *j) {
    const vv_cli_args *args = j->args;
    return (vv_client_range){.prefix = args->prefix ? &j->prefix : NULL,
                             .start = args->start ? &j->start : NULL,
                             .end = args->end ? &j->end : NULL,
                             .limit = args->limit,
                             .reverse = args->reverse,
                             .keys_only = args->keys_only};
}

static vv_cli_exit run_scan(const job *j, vv_client *c, vv_client_error *err) {
    vv_cli_args args = *j->args;
    vv_client_range range = range_of(j);
    return vv_client_scan(c, &range, show_entry, &args, err) ? VV_CLI_DONE : failed(j->args, err);
}

typedef struct changes {
    const vv_cli_args *args;
    uint64_t shown;
} changes;

static bool show_event(void *arg, const vv_client_event *event) {
    changes *c = arg;
    bool mark = event->kind == VV_CLIENT_EVENT_MARK;
    vv_output_event(stdout, event, c->args->json, c->args->hex);
    if (mark)
        fflush(stdout); /* behind each message: somebody waits for it */
    else
        c->shown++;
    return !ferror(stdout) && (mark || c->shown != c->args->limit);
}

static vv_cli_exit run_watch(const job *j, vv_client *c, vv_client_error *err) {
    changes to = {.args = j->args};
    vv_client_range range = range_of(j);
    return vv_client_watch(c, &range, j->args->from, show_event, &to, err) ? VV_CLI_DONE
                                                                           : failed(j->args, err);
}

static vv_cli_exit run_compact(const job *j, vv_client *c, vv_client_error *err) {
    if (!vv_client_compact(c, err))
        return failed(j->args, err);
    if (j->args->json)
        vv_output_done(stdout);
    return VV_CLI_DONE;
}

static vv_cli_exit run_health(const job *j, vv_client *c, vv_client_error *err) {
    const vv_cli_args *args = j->args;
    vv_client_health health = VV_CLIENT_HEALTH_UNKNOWN;
    if (!vv_client_health_check(c, args->operand_count ? args->operands[0] : "", &health, err))
        return failed(args, err);
    vv_output_health(stdout, health, args->json);
    return health == VV_CLIENT_SERVING ? VV_CLI_DONE : VV_CLI_NOT_FOUND;
}

static vv_cli_exit run_flush(const job *j, vv_client *c, vv_client_error *err) {
    if (!vv_client_flush(c, err))
        return failed(j->args, err);
    if (j->args->json)
        vv_output_done(stdout);
    return VV_CLI_DONE;
}

static vv_cli_exit run_stats(const job *j, vv_client *c, vv_client_error *err) {
    static vv_client_stats stats;
    if (!vv_client_get_stats(c, &stats, err))
        return failed(j->args, err);
    vv_output_stats(stdout, &stats, j->args->json);
    return VV_CLI_DONE;
}

static vv_cli_exit run_status(const job *j, vv_client *c, vv_client_error *err) {
    static vv_client_status status;
    if (!vv_client_get_status(c, &status, err))
        return failed(j->args, err);
    vv_output_status(stdout, &status, j->args->json);
    return VV_CLI_DONE;
}

static vv_cli_exit run_backup(const job *j, vv_client *c, vv_client_error *err) {
    varve_backup_info info = {0};
    vv_client_backup backup = {
        .dest = j->args->operands[0], .incremental = j->args->incremental, .link = j->args->link};
    if (!vv_client_back_up(c, &backup, &info, err))
        return failed(j->args, err);
    vv_output_backup(stdout, &info, j->args->json);
    return VV_CLI_DONE;
}

static vv_cli_exit run_reload(const job *j, vv_client *c, vv_client_error *err) {
    static vv_client_reload_report report;
    if (!vv_client_reload(c, &report, err))
        return failed(j->args, err);
    vv_output_reload(stdout, &report, j->args->json);
    return VV_CLI_DONE;
}

static vv_cli_exit run_promote(const job *j, vv_client *c, vv_client_error *err) {
    uint64_t epoch = 0;
    if (!vv_client_promote(c, j->args->force, &epoch, err))
        return failed(j->args, err);
    vv_output_epoch(stdout, epoch, j->args->json);
    return VV_CLI_DONE;
}

static void show_damage(void *arg, const varve_damage *damage) {
    const vv_cli_args *args = arg;
    vv_output_damage(stdout, damage, args->json, args->hex);
}

static vv_cli_exit run_verify(const job *j, vv_client *c, vv_client_error *err) {
    vv_cli_args args = *j->args;
    varve_verify_result result = {0};
    if (!vv_client_verify(c, show_damage, &args, &result, err))
        return failed(j->args, err);
    vv_output_verified(stdout, &result, args.json);
    return result.damage_count == 0 ? VV_CLI_DONE : VV_CLI_NOT_FOUND;
}

static vv_cli_exit run_verb(const job *j, vv_client *c, vv_client_error *err) {
    switch (j->args->verb) {
    case VV_CLI_GET: return run_get(j, c, err);
    case VV_CLI_HEALTH: return run_health(j, c, err);
    case VV_CLI_FLUSH: return run_flush(j, c, err);
    case VV_CLI_STATS: return run_stats(j, c, err);
    case VV_CLI_STATUS: return run_status(j, c, err);
    case VV_CLI_BACKUP: return run_backup(j, c, err);
    case VV_CLI_VERIFY: return run_verify(j, c, err);
    case VV_CLI_SCAN: return run_scan(j, c, err);
    case VV_CLI_WATCH: return run_watch(j, c, err);
    case VV_CLI_COMPACT: return run_compact(j, c, err);
    case VV_CLI_PROMOTE: return run_promote(j, c, err);
    case VV_CLI_RELOAD: return run_reload(j, c, err);
    case VV_CLI_LOAD: return vv_cli_load(j->args, c);
    case VV_CLI_REPL: return vv_cli_repl(j->args, c);
    case VV_CLI_TOP: return vv_cli_top(j->args, c);
    case VV_CLI_BENCH: return vv_cli_bench(j->args, c);
    case VV_CLI_PUT:
    case VV_CLI_DELETE:
    case VV_CLI_BATCH:
    case VV_CLI_INSPECT:
    case VV_CLI_REPAIR:
    case VV_CLI_RESTORE:
    case VV_CLI_TOKEN:
    case VV_CLI_COMPLETION: break;
    }
    return run_write(j, c, err);
}

/* ---- commands that ask nobody, or not as the others do ---- */

static vv_cli_exit run_restore(const vv_cli_args *args) {
    vv_progress progress;
    varve_restore_info info = {0};
    varve_error words = {""};
    varve_restore_options options = {.archive_dir = args->archive,
                                     .to_lsn = args->to_lsn,
                                     .to_unix_ms = args->to_unix_ms,
                                     .mode = args->link ? VARVE_BACKUP_LINK : VARVE_BACKUP_COPY,
                                     .progress = vv_progress_show,
                                     .arg = &progress};
    vv_progress_begin(&progress, stderr, "restore");
    varve_status st = varve_restore(args->operands[0], args->operands[1], &options, &info, &words);
    vv_progress_end(&progress);
    if (!varve_ok(st))
        return engine_failed(args, st, &words);
    vv_output_restored(stdout, &info, args->json);
    return VV_CLI_DONE;
}

typedef struct repairing {
    const vv_cli_args *args;
    vv_progress progress;
} repairing;

/* The progress goes, so that the line stands alone. */
static void show_repair_damage(void *arg, const varve_damage *d) {
    repairing *r = arg;
    vv_progress_end(&r->progress);
    vv_output_repair(stdout, d, false, r->args->json, r->args->hex);
}

static void show_repair_loss(void *arg, const varve_damage *d) {
    repairing *r = arg;
    vv_progress_end(&r->progress);
    vv_output_repair(stdout, d, true, r->args->json, r->args->hex);
}

static bool show_repair_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes) {
    return vv_progress_show(&((repairing *)arg)->progress, done_bytes, total_bytes);
}

/* Also what verify does with a directory that does not open. */
static vv_cli_exit run_repair(const vv_cli_args *args, const char *dir, bool dry_run) {
    repairing r = {.args = args};
    varve_repair_result result;
    varve_error words = {""};
    varve_repair_options options = {.damaged = show_repair_damage,
                                    .lost = show_repair_loss,
                                    .progress = show_repair_progress,
                                    .arg = &r,
                                    .dry_run = dry_run,
                                    .keep_later = args->keep_later,
                                    .discard_originals = args->discard_originals};
    vv_progress_begin(&r.progress, stderr, args->name);
    varve_status st = varve_repair(dir, NULL, &options, &result, &words);
    vv_progress_end(&r.progress);
    if (!varve_ok(st))
        return engine_failed(args, st, &words);
    vv_output_repaired(stdout, &result, dir, dry_run, args->json);
    return result.loss_count > 0 || (dry_run && !result.sound) ? VV_CLI_NOT_FOUND : VV_CLI_DONE;
}

static bool show_item(void *arg, const varve_item *item) {
    const vv_cli_args *args = arg;
    vv_output_item(stdout, item, args->keys_only, args->json, args->hex);
    return !ferror(stdout);
}

static void show_inspected_damage(void *arg, const varve_damage *d) {
    const vv_cli_args *args = arg;
    vv_output_repair(stdout, d, false, args->json, args->hex);
}

static vv_cli_exit run_inspect(const vv_cli_args *args) {
    vv_cli_args copy = *args;
    varve_inspect_result result;
    varve_error words = {""};
    varve_inspect_options options = {
        .item = show_item, .damaged = show_inspected_damage, .arg = &copy, .entries = args->entries};
    varve_status st = varve_inspect(args->operands[0], &options, &result, &words);
    if (!varve_ok(st))
        return engine_failed(args, st, &words);
    return result.damage_count == 0 ? VV_CLI_DONE : VV_CLI_NOT_FOUND;
}

static vv_client_target target_of(const vv_cli_args *args) {
    return (vv_client_target){.address = args->server,
                              .timeout_us = args->timeout_us,
                              .token = args->token,
                              .token_file = args->token_file,
                              .tls_ca = args->tls_ca,
                              .tls_cert = args->tls_cert,
                              .tls_key = args->tls_key};
}

static vv_cli_exit run_fetch(const vv_cli_args *args) {
    vv_client_error err = {0};
    varve_backup_info info = {0};
    vv_client_target target = target_of(args);
    if (!vv_cli_fetch(&target, args->operands[0], &info, &err))
        return failed(args, &err);
    vv_output_backup(stdout, &info, args->json);
    return VV_CLI_DONE;
}

static vv_cli_exit make_token(const vv_cli_args *args) {
    if (vv_token_print(stdout, args->operands[0], args->operands[1], args->json))
        return VV_CLI_DONE;
    fprintf(stderr, "varve: token: the system has no random bytes\n");
    return VV_CLI_FAILED;
}

vv_cli_exit vv_cli_run(const vv_cli_args *args) {
    if (args->verb == VV_CLI_TOKEN)
        return make_token(args);
    if (args->verb == VV_CLI_COMPLETION) {
        (strcmp(args->operands[0], "zsh") == 0 ? vv_cli_completion_zsh : vv_cli_completion_bash)(stdout);
        return VV_CLI_DONE;
    }
    if (args->verb == VV_CLI_RESTORE)
        return run_restore(args);
    if (args->verb == VV_CLI_INSPECT)
        return run_inspect(args);
    if (args->verb == VV_CLI_REPAIR)
        return run_repair(args, args->operands[0], args->dry_run);
    if (args->fetch)
        return run_fetch(args);
    job j = {.args = args};
    vv_client_error err = {0};
    vv_cli_exit result = take_input(&j);
    if (result != VV_CLI_DONE)
        goto out;
    bool creates = args->verb == VV_CLI_PUT || args->verb == VV_CLI_BATCH || args->verb == VV_CLI_LOAD ||
                   args->verb == VV_CLI_BENCH;
    vv_client_target target = target_of(args);
    vv_client *c =
        args->data ? vv_client_local_open(args->data, creates, &err) : vv_client_grpc_open(&target, &err);
    if (!c && args->verb == VV_CLI_VERIFY && args->data &&
        (strcmp(err.code, "CORRUPTION") == 0 || strcmp(err.code, "UNSUPPORTED") == 0)) {
        result = run_repair(args, args->data, true); /* what is it that opening refused? */
        goto out;
    }
    if (!c) {
        result = failed(args, &err);
        goto out;
    }
    result = run_verb(&j, c, &err);
    if (!vv_client_close(c, &err) && result != VV_CLI_FAILED)
        result = failed(args, &err);
out:
    vv_script_deinit(&j.script);
    vv_bytes_deinit(&j.end);
    vv_bytes_deinit(&j.start);
    vv_bytes_deinit(&j.prefix);
    vv_bytes_deinit(&j.value);
    vv_bytes_deinit(&j.key);
    return result;
}

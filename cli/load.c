/*
 * load.c - many entries, in batches that are written one behind the other.
 *
 * A batch is as many whole entries as BATCH_BYTES hold, so that one fsync serves thousands of them and a
 * failure is told apart to the line. With --async all batches but the last are acknowledged as soon as they
 * can be read; the log is in the order of the writes, so that the last one, which is synced, stands for all.
 *
 * A server that is busy, or away for a moment, is asked again: putting an entry twice is putting it once.
 */
#include "cli/load.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "cli/entry_reader.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"

#define BATCH_BYTES       ((size_t)1 << 20)
#define BATCH_ENTRIES     4096
#define RETRY_NS          (100 * VV_NS_PER_MS) /* and twice as long each time, up to */
#define RETRY_NS_MAX      (2 * VV_NS_PER_S)
#define GIVE_UP_NS        (60 * VV_NS_PER_S)
#define PLAIN_PROGRESS_NS (10 * VV_NS_PER_S)

typedef struct lengths {
    size_t key_bytes;
    size_t value_bytes;
} lengths;

typedef struct loader {
    const vv_cli_args *args;
    vv_client *client;
    vv_entry_reader reader;
    vv_progress progress;
    uint64_t file_bytes; /* 0: not known */

    vv_bytes bytes; /* of the batch: key, value, key, value */
    lengths entries[BATCH_ENTRIES];
    vv_client_op ops[BATCH_ENTRIES];
    size_t count;
    uint64_t last_line; /* of the batch's last entry */

    uint64_t written_line; /* that far everything is in */
    uint64_t written_entries, written_bytes, lsn;
} loader;

/* ---- writing ---- */

static bool may_pass(const vv_client_error *err) {
    return strcmp(err->reason, "WRITE_STALL") == 0 || strcmp(err->reason, "RATE_LIMITED") == 0 ||
           (strcmp(err->code, "UNAVAILABLE") == 0 && strcmp(err->reason, "WAL_FAILED") != 0);
}

/* The entries that are counted, which are so many of the bytes; what is behind them moves to the front. */
static bool write_batch(loader *l, size_t batch_bytes, bool async, vv_client_error *err) {
    const uint8_t *at = l->bytes.data;
    for (size_t i = 0; i < l->count; i++) {
        const lengths *e = &l->entries[i];
        l->ops[i] = (vv_client_op){.kind = VV_CLIENT_PUT,
                                   .key = vv_slice_make(at, e->key_bytes),
                                   .value = vv_slice_make(at + e->key_bytes, e->value_bytes)};
        at += e->key_bytes + e->value_bytes;
    }
    uint64_t started_ns = vv_clock_mono_ns(), pause_ns = RETRY_NS;
    uint64_t patience_ns = l->args->timeout_us ? l->args->timeout_us * VV_NS_PER_US : GIVE_UP_NS;
    while (!vv_client_write(l->client, l->ops, l->count, async, &l->lsn, err)) {
        uint64_t now_ns = vv_clock_mono_ns();
        if (!may_pass(err) || now_ns - started_ns > patience_ns || vv_interrupted())
            return false;
        vv_sleep_until(now_ns + pause_ns);
        pause_ns = VV_MIN(pause_ns * 2, RETRY_NS_MAX);
    }
    l->written_entries += l->count;
    l->written_bytes += batch_bytes;
    l->written_line = l->last_line;
    l->count = 0;
    l->bytes.bytes -= batch_bytes;
    memmove(l->bytes.data, l->bytes.data + batch_bytes, l->bytes.bytes);
    vv_progress_show(&l->progress, l->reader.bytes, l->file_bytes);
    return true;
}

/* ---- reading ---- */

/* False: `words` says what is wrong, or *err if that is empty; all whole entries before that are written. */
static bool load(loader *l, char words[VV_SCRIPT_MESSAGE_BYTES], vv_client_error *err) {
    vv_entry_read read = VV_ENTRY_READ;
    size_t before = 0;
    words[0] = '\0';
    if (!vv_entry_reader_skip(&l->reader, l->args->skip)) {
        snprintf(words, VV_SCRIPT_MESSAGE_BYTES, "there are only %llu lines",
                 (unsigned long long)l->reader.line);
        return false;
    }
    while (!vv_interrupted()) {
        lengths e = {0};
        before = l->bytes.bytes;
        read = vv_entry_reader_next(&l->reader, &l->bytes, &e.key_bytes, &e.value_bytes, words);
        if (read != VV_ENTRY_READ)
            break;
        /* Only now is it known that a full batch is not the last one. */
        bool full = l->count == BATCH_ENTRIES || before >= BATCH_BYTES;
        if (full && !write_batch(l, before, l->args->async, err))
            return false;
        l->entries[l->count++] = e;
        l->last_line = l->reader.line;
    }
    if (read == VV_ENTRY_BAD)
        l->bytes.bytes = before;
    if (l->count > 0 && !write_batch(l, l->bytes.bytes, false, err)) {
        words[0] = '\0';
        return false;
    }
    if (vv_interrupted() && read != VV_ENTRY_END)
        snprintf(words, VV_SCRIPT_MESSAGE_BYTES, "interrupted");
    return words[0] == '\0';
}

static void say_failed(const loader *l, const char *words, const vv_client_error *err) {
    unsigned long long line = (unsigned long long)l->written_line;
    fputs("varve: load: ", stderr);
    if (words[0])
        fputs(words, stderr);
    else
        vv_output_error(stderr, err);
    if (line > 0)
        fprintf(stderr, "; all up to line %llu is in: --skip %llu goes on behind it\n", line, line);
    else
        fprintf(stderr, "; nothing was loaded\n");
}

static vv_cli_exit run(loader *l) {
    char words[VV_SCRIPT_MESSAGE_BYTES];
    vv_client_error err = {0};
    uint64_t started_ns = vv_clock_mono_ns();
    vv_progress_begin(&l->progress, stderr, "load");
    l->progress.plain_ns = PLAIN_PROGRESS_NS;
    bool fine = load(l, words, &err);
    vv_progress_end(&l->progress);
    if (!fine) {
        say_failed(l, words, &err);
        return words[0] && !vv_interrupted() ? VV_CLI_USAGE : VV_CLI_FAILED;
    }
    vv_output_loaded(stdout, l->written_entries, l->written_bytes, l->lsn,
                     (double)(vv_clock_mono_ns() - started_ns) / 1e9, l->args->json);
    return VV_CLI_DONE;
}

vv_cli_exit vv_cli_load(const vv_cli_args *args, vv_client *client) {
    const char *path = args->operand_count && strcmp(args->operands[0], "-") != 0 ? args->operands[0] : NULL;
    FILE *file = path ? fopen(path, "rbe") : stdin;
    struct stat st;
    if (!file) {
        fprintf(stderr, "varve: load: %s: %s\n", path, strerror(errno));
        return VV_CLI_FAILED;
    }
    loader *l = vv_alloc_zeroed(sizeof *l);
    vv_cli_exit result = VV_CLI_FAILED;
    if (!l) {
        fprintf(stderr, "varve: load: out of memory\n");
        goto out;
    }
    l->args = args;
    l->client = client;
    l->reader = (vv_entry_reader){.file = file, .json = args->from_json, .hex = args->hex};
    if (fstat(fileno(file), &st) == 0 && S_ISREG(st.st_mode))
        l->file_bytes = (uint64_t)st.st_size;
    vv_interrupt_catch();
    result = run(l);
    vv_entry_reader_deinit(&l->reader);
    vv_bytes_deinit(&l->bytes);
out:
    vv_free(l);
    if (path)
        fclose(file);
    return result;
}

/*
 * One merge of real tables: what stays, what goes, and what a failure leaves.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/lsm/compaction.h"
#include "engine/sst/scan.h"
#include "tests/support/fault_io.h"
#include "tests/support/tempdir.h"

/* ---- a directory with tables ---- */

static struct {
    vv_io_backend *backend;
    vv_io_queue *queue;
    vv_table_cache *tables;
    vv_table *inputs[64];
    size_t input_count;
    uint64_t next_number;
    uint64_t op_count; /* I/O operations so far */
    uint64_t fail_op;  /* this one fails; 0: none */
    uint64_t paces_left;
    uint64_t read_bytes_max;       /* 0: plenty */
    _Atomic uint64_t memory_bytes; /* of scans */
    uint64_t memory_most;
} fx;

static vv_status on_op(void *arg, const char *op, const char *name) {
    (void)arg;
    (void)name;
    fx.memory_most = VV_MAX(fx.memory_most, fx.memory_bytes);
    /* What is removed after a failure can be removed. */
    if (strcmp(op, "unlink") == 0)
        return VV_STATUS_OK;
    return ++fx.op_count == fx.fail_op ? vv_status_errno(EIO) : VV_STATUS_OK;
}

static void setup(void) {
    memset(&fx, 0, sizeof fx);
    vv_io_queue_options o = {.depth = 8, .pool_buffer_count = 4, .pool_buffer_bytes = 64 << 10};
    fx.backend = vv_fault_io_create(on_op, NULL);
    fx.next_number = 1;
    fx.paces_left = UINT64_MAX;
    cr_assert(vv_ok(vv_io_queue_create(fx.backend, &o, &fx.queue, NULL)));
    cr_assert(vv_ok(vv_table_cache_create(fx.backend, vv_tempdir(), 100, 1 << 20, &fx.tables)));
}

static void teardown(void) {
    for (size_t i = 0; i < fx.input_count; i++)
        vv_table_unref(fx.inputs[i]);
    vv_table_cache_destroy(fx.tables);
    vv_io_queue_destroy(fx.queue);
    vv_io_backend_destroy(fx.backend);
    vv_tempdir_cleanup();
}

TestSuite(compaction, .init = setup, .fini = teardown, .timeout = 120);

static const char *dir(void) {
    return vv_tempdir_path("");
}

static int tables_on_disk(void) {
    int count = 0;
    DIR *d = opendir(vv_tempdir_path(""));
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        count += strstr(e->d_name, ".sst") != NULL;
    closedir(d);
    return count;
}

static void drop(void *arg, uint64_t file_number) {
    (void)arg;
    (void)file_number;
}

static vv_sst_writer_options writer_options(const char *path) {
    return (vv_sst_writer_options){
        .queue = fx.queue, .backend = fx.backend, .path = path, .block_bytes = 4096, .filter_fp_rate = 0.01};
}

static void add_table(const vv_entry *entries, size_t count) {
    char path[512];
    uint64_t number = fx.next_number++;
    vv_table_cache_path(dir(), number, path, sizeof path);
    vv_sst_writer_options o = writer_options(path);
    vv_sst_writer *w;
    vv_sst_summary summary;
    vv_error err;
    cr_assert(vv_ok(vv_sst_writer_create(&o, &w, &err)), "%s", err.text);
    for (size_t i = 0; i < count; i++)
        cr_assert(vv_ok(vv_sst_writer_add(w, &entries[i])));
    cr_assert(vv_ok(vv_sst_writer_finish(w, &summary, &err)), "%s", err.text);
    vv_sst_writer_destroy(w);
    fx.inputs[fx.input_count++] = vv_table_create(0, number, number, &summary, drop, NULL);
}

/* Tables in words: "key@lsn=value", "key@lsn-" a tombstone, "key@lsn=value!500" expires at 500. */
static size_t parse(const char *words, char *storage, vv_entry *out) {
    size_t count = 0;
    strcpy(storage, words);
    for (char *word = strtok(storage, " "); word; word = strtok(NULL, " ")) {
        char *at = strchr(word, '@'), *rest;
        vv_entry e = {.key = vv_slice_make(word, (size_t)(at - word)), .kind = VV_KIND_DELETE};
        e.lsn = strtoull(at + 1, &rest, 10);
        if (*rest == '=') {
            char *end = rest + 1 + strcspn(rest + 1, "!");
            e.kind = VV_KIND_PUT;
            e.value = vv_slice_make(rest + 1, (size_t)(end - rest - 1));
            e.expires_unix_ms = *end == '!' ? strtoull(end + 1, NULL, 10) : 0;
        }
        out[count++] = e;
    }
    return count;
}

static void table(const char *words) {
    char storage[512];
    vv_entry entries[32];
    add_table(entries, parse(words, storage, entries));
}

static uint64_t next_file_number(void *arg) {
    (void)arg;
    return fx.next_number++;
}

static bool pace(void *arg, uint64_t bytes) {
    (void)arg;
    cr_assert_gt(bytes, 0);
    return fx.paces_left-- > 0;
}

typedef struct rules {
    bool bottom;
    uint64_t safe_lsn;
    uint64_t snapshots[4];
    size_t snapshot_count;
    uint64_t hidden_from_lsn;
    uint64_t now;
    uint64_t output_bytes;
} rules;

static vv_status run(const rules *r, vv_compaction_result *out) {
    vv_compaction_plan plan = {
        .inputs = fx.inputs, .input_count = fx.input_count, .output_level = 1, .bottom = r->bottom};
    vv_compaction_options o = {.queue = fx.queue,
                               .tables = fx.tables,
                               .writer = writer_options(NULL),
                               .dir = dir(),
                               .output_bytes = r->output_bytes ? r->output_bytes : 1 << 20,
                               .snapshots = r->snapshots,
                               .snapshot_count = r->snapshot_count,
                               .hidden_from_lsn = r->hidden_from_lsn,
                               .safe_lsn = r->safe_lsn,
                               .now_unix_ms = r->now,
                               .next_file_number = next_file_number,
                               .read_bytes_max = fx.read_bytes_max ? fx.read_bytes_max : UINT64_C(64) << 20,
                               .memory_bytes = &fx.memory_bytes,
                               .pace = pace};
    vv_error err;
    return vv_compaction_run(&plan, &o, out, &err);
}

typedef void (*visit_fn)(const vv_entry *e, size_t output, void *arg);

static void visit(const vv_compaction_result *r, visit_fn fn, void *arg) {
    for (size_t i = 0; i < r->output_count; i++) {
        vv_sst_reader *reader;
        vv_iter *it;
        cr_assert(vv_ok(vv_table_cache_get(fx.tables, r->outputs[i].file_number, &reader, NULL)));
        vv_sst_scan_options o = {.queue = fx.queue, .window_bytes = VV_SST_SCAN_BYTES_MAX};
        cr_assert(vv_ok(vv_sst_scan_create(reader, &o, &it)));
        for (vv_iter_seek_first(it); it->valid; vv_iter_next(it))
            fn(&it->entry, i, arg);
        cr_assert(vv_ok(it->status));
        vv_iter_destroy(it);
        vv_table_cache_release(fx.tables, reader, VV_TABLE_PIN_SHARED);
    }
}

static void append_words(const vv_entry *e, size_t output, void *arg) {
    char *text = arg;
    (void)output;
    text += strlen(text);
    text += sprintf(text, "%s%.*s@%llu", text == arg ? "" : " ", (int)e->key.bytes, (const char *)e->key.data,
                    (unsigned long long)e->lsn);
    if (e->kind == VV_KIND_DELETE) {
        cr_assert_eq(e->value.bytes, 0);
        cr_assert_eq(e->expires_unix_ms, 0);
        sprintf(text, "-");
    } else {
        text += sprintf(text, "=%.*s", (int)e->value.bytes, (const char *)e->value.data);
        if (e->expires_unix_ms)
            sprintf(text, "!%llu", (unsigned long long)e->expires_unix_ms);
    }
}

static void expect(const rules *r, const char *words) {
    char text[1024] = "";
    vv_compaction_result result;
    cr_assert(vv_ok(run(r, &result)));
    visit(&result, append_words, text);
    cr_assert_str_eq(text, words);
    cr_assert_eq(result.output_count == 0, words[0] == '\0', "no table is made of nothing");
    cr_assert_eq(result.read_entries,
                 result.written_entries + result.dropped_versions + result.dropped_tombstones);
    vv_compaction_result_deinit(&result);
}

/* ---- versions ---- */

Test(compaction, the_newest_version_wins) {
    table("a@9=new b@1=b");
    table("a@5=mid c@4=c");
    table("a@2=old a@1=older d@3=d");
    expect(&(rules){0}, "a@9=new b@1=b c@4=c d@3=d");
}

Test(compaction, each_snapshot_keeps_the_version_that_it_sees) {
    table("a@9=9 a@7=7");
    table("a@5=5 a@3=3 a@1=1");
    expect(&(rules){.snapshots = {4}, .snapshot_count = 1}, "a@9=9 a@3=3");
    expect(&(rules){.snapshots = {3, 7}, .snapshot_count = 2}, "a@9=9 a@7=7 a@3=3");
    expect(&(rules){.snapshots = {2, 6, 8}, .snapshot_count = 3}, "a@9=9 a@7=7 a@5=5 a@1=1");
    expect(&(rules){.snapshots = {9}, .snapshot_count = 1}, "a@9=9");
    expect(&(rules){.snapshots = {20}, .snapshot_count = 1}, "a@9=9");
}

/* ---- tombstones ---- */

Test(compaction, tombstones_stay_unless_at_the_bottom) {
    table("a@9- b@8=b");
    table("a@5=old");
    expect(&(rules){.bottom = false}, "a@9- b@8=b");
    expect(&(rules){.bottom = true}, "b@8=b");
}

Test(compaction, a_merge_of_tombstones_alone_leaves_no_table_at_the_bottom) {
    table("a@9- b@8-");
    table("a@5=old b@4=old");
    expect(&(rules){.bottom = true}, "");
    cr_assert_eq(tables_on_disk(), 2, "the inputs");
}

Test(compaction, the_safe_lsn_keeps_tombstones_of_merges_that_reach_beyond_it) {
    table("a@9- b@8=b");
    table("a@5=old");
    /* isLastLevel && (safeLSN == 0 || (batchMaxLSN > 0 && batchMaxLSN <= safeLSN)); batchMaxLSN is 9 */
    expect(&(rules){.bottom = true, .safe_lsn = 8}, "a@9- b@8=b");
    expect(&(rules){.bottom = true, .safe_lsn = 1}, "a@9- b@8=b");
    expect(&(rules){.bottom = true, .safe_lsn = 9}, "b@8=b");
    expect(&(rules){.bottom = true, .safe_lsn = 10}, "b@8=b");
    expect(&(rules){.bottom = false, .safe_lsn = 10}, "a@9- b@8=b");
}

Test(compaction, the_safe_lsn_looks_at_the_whole_merge_not_at_the_tombstone) {
    table("a@3- b@2=b");
    table("z@12=z");
    expect(&(rules){.bottom = true, .safe_lsn = 5}, "a@3- b@2=b z@12=z");
    expect(&(rules){.bottom = true, .safe_lsn = 12}, "b@2=b z@12=z");
}

Test(compaction, a_tombstone_that_a_snapshot_needs_stays_at_the_bottom) {
    table("a@9-");
    table("a@5=old");
    table("b@7- b@3=b");
    /* The snapshot at 6 sees both values; without their tombstones the present would see them too. */
    expect(&(rules){.bottom = true, .snapshots = {6}, .snapshot_count = 1}, "a@9- a@5=old b@7- b@3=b");
    /* The one at 8 sees a's value, and b deleted; nobody sees b's value. */
    expect(&(rules){.bottom = true, .snapshots = {8}, .snapshot_count = 1}, "a@9- a@5=old");
    expect(&(rules){.bottom = true, .snapshots = {2}, .snapshot_count = 1}, "a@9- b@7-");
}

/* What is deleted must not come back, whatever is merged with whatever in whatever order. */
Test(compaction, nothing_resurfaces_in_what_a_merge_left_above_older_tables) {
    table("a@5=old");
    vv_table *older = fx.inputs[--fx.input_count]; /* below, not part of the merge */
    table("a@9-");
    table("a@7=mid");
    vv_compaction_result r;
    char text[256] = "";
    cr_assert(vv_ok(run(&(rules){.bottom = false}, &r)));
    visit(&r, append_words, text);
    cr_assert_str_eq(text, "a@9-", "without it a@5 would show");
    vv_compaction_result_deinit(&r);
    vv_table_unref(older);
}

/* ---- what is not visible yet ---- */

Test(compaction, every_version_that_is_not_visible_yet_stays_and_the_newest_that_is) {
    table("a@9=9 a@7=7 b@8-");
    table("a@5=5 a@3=3 a@1=1 b@4=b");
    expect(&(rules){.hidden_from_lsn = 10}, "a@9=9 b@8-");
    expect(&(rules){.hidden_from_lsn = 9}, "a@9=9 a@7=7 b@8-");
    expect(&(rules){.hidden_from_lsn = 6}, "a@9=9 a@7=7 a@5=5 b@8- b@4=b");
    expect(&(rules){.hidden_from_lsn = 4}, "a@9=9 a@7=7 a@5=5 a@3=3 b@8- b@4=b");
    expect(&(rules){.hidden_from_lsn = 1}, "a@9=9 a@7=7 a@5=5 a@3=3 a@1=1 b@8- b@4=b");
    expect(&(rules){.hidden_from_lsn = 7, .snapshots = {2, 5}, .snapshot_count = 2},
           "a@9=9 a@7=7 a@5=5 a@1=1 b@8- b@4=b");
}

Test(compaction, a_tombstone_that_is_not_visible_yet_stays_at_the_bottom) {
    table("a@9- b@7- c@8-");
    table("a@5=old b@4=old");
    expect(&(rules){.bottom = true, .hidden_from_lsn = 10}, "");
    expect(&(rules){.bottom = true, .hidden_from_lsn = 9}, "a@9- a@5=old");
    expect(&(rules){.bottom = true, .hidden_from_lsn = 8}, "a@9- a@5=old c@8-");
    expect(&(rules){.bottom = true, .hidden_from_lsn = 1}, "a@9- a@5=old b@7- b@4=old c@8-");
}

Test(compaction, an_entry_that_expired_before_it_was_visible_still_hides_what_is_older) {
    table("a@9=new!500");
    table("a@5=old");
    expect(&(rules){.now = 500, .bottom = true, .hidden_from_lsn = 9}, "a@9- a@5=old");
    expect(&(rules){.now = 500, .bottom = true, .hidden_from_lsn = 10}, "");
}

/* ---- expiry ---- */

Test(compaction, an_expired_entry_becomes_a_tombstone_or_goes) {
    table("a@9=new!500 b@8=b!600");
    table("a@5=old");
    expect(&(rules){.now = 499}, "a@9=new!500 b@8=b!600");
    expect(&(rules){.now = 500}, "a@9- b@8=b!600");
    expect(&(rules){.now = 500, .bottom = true}, "b@8=b!600");
    expect(&(rules){.now = 500, .bottom = true, .safe_lsn = 8}, "a@9- b@8=b!600");
    expect(&(rules){.now = 700, .bottom = true}, "");
}

Test(compaction, an_expired_entry_hides_what_is_older_also_for_snapshots) {
    table("a@9=new!500");
    table("a@5=old");
    expect(&(rules){.now = 500, .bottom = true, .snapshots = {6}, .snapshot_count = 1}, "a@9- a@5=old");
}

/* ---- outputs ---- */

/* `count` entries of 100 bytes, `versions` of each key. */
static void add_generated(uint64_t count, uint64_t versions, uint64_t stride, uint64_t offset) {
    static char value[100];
    vv_entry *entries = calloc(count, sizeof *entries);
    char(*keys)[16] = calloc(count, sizeof *keys);
    memset(value, 'v', sizeof value);
    for (uint64_t i = 0; i < count; i++) {
        int n = snprintf(keys[i], sizeof keys[i], "key%08llu",
                         (unsigned long long)(i / versions * stride + offset));
        entries[i] = (vv_entry){.key = vv_slice_make(keys[i], (size_t)n),
                                .value = vv_slice_make(value, sizeof value),
                                .lsn = 1 + offset * count + count - i,
                                .kind = VV_KIND_PUT};
    }
    add_table(entries, count);
    free(entries);
    free(keys);
}

typedef struct walk {
    char last[32];
    size_t output;
    uint64_t count;
    uint64_t keys;
} walk;

static void check_walk(const vv_entry *e, size_t output, void *arg) {
    walk *w = arg;
    char key[32];
    snprintf(key, sizeof key, "%.*s", (int)e->key.bytes, (const char *)e->key.data);
    int order = strcmp(w->last, key);
    cr_assert_leq(order, 0);
    if (order == 0)
        cr_assert_eq(output, w->output, "a key is in two tables: %s", key);
    else
        w->keys++;
    strcpy(w->last, key);
    w->output = output;
    w->count++;
}

Test(compaction, outputs_are_cut_at_their_size_and_never_inside_a_key) {
    uint64_t snapshots[400];
    for (uint64_t i = 0; i < 400; i++)
        snapshots[i] = i * 10 + 10;
    add_generated(2000, 40, 2, 0);
    add_generated(2000, 40, 2, 1);
    /* As many snapshots as keep all versions: keys of 4 KiB. */
    vv_compaction_plan plan = {.inputs = fx.inputs, .input_count = 2, .output_level = 1};
    vv_compaction_options o = {.queue = fx.queue,
                               .tables = fx.tables,
                               .writer = writer_options(NULL),
                               .dir = dir(),
                               .output_bytes = 20000,
                               .snapshots = snapshots,
                               .snapshot_count = 400,
                               .next_file_number = next_file_number,
                               .pace = pace};
    vv_compaction_result result;
    walk w = {.last = ""};
    cr_assert(vv_ok(vv_compaction_run(&plan, &o, &result, NULL)));
    visit(&result, check_walk, &w);
    cr_assert_eq(w.count, result.written_entries);
    cr_assert_eq(w.keys, 100);
    cr_assert_gt(result.output_count, 2);
    uint64_t bytes = 0;
    for (size_t i = 0; i < result.output_count; i++) {
        const vv_sst_summary *s = &result.outputs[i].summary;
        bytes += s->file_bytes;
        cr_assert_lt(s->file_bytes, 20000 + 6000 + 16384, "table %zu has %llu bytes", i,
                     (unsigned long long)s->file_bytes);
        if (i + 1 < result.output_count)
            cr_assert_gt(s->file_bytes, 15000);
    }
    cr_assert_eq(bytes, result.output_bytes);
    vv_compaction_result_deinit(&result);
}

/* ---- failures ---- */

/* Table `index` of run `run`: keys of one run follow each other, those of all runs are mixed. */
static void add_table_of_run(uint64_t run, uint64_t index) {
    enum { count = 2000 };
    static char keys[count][32];
    static char value[200];
    static vv_entry entries[count];
    for (uint64_t i = 0; i < count; i++) {
        snprintf(keys[i], sizeof keys[i], "%08d-%02d", (int)(index * count + i), (int)run);
        entries[i] = (vv_entry){.key = vv_slice_make(keys[i], strlen(keys[i])),
                                .lsn = 1 + run,
                                .kind = VV_KIND_PUT,
                                .value = vv_slice_make(value, sizeof value)};
    }
    add_table(entries, count);
    fx.inputs[fx.input_count - 1]->run = 100 - run;
}

static void count_entry(const vv_entry *e, size_t output, void *arg) {
    (void)e;
    (void)output;
    ++*(uint64_t *)arg;
}

Test(compaction, what_it_reads_ahead_has_a_bound_whatever_it_merges) {
    enum { runs = 12, tables = 5 };
    for (uint64_t run = 0; run < runs; run++)
        for (uint64_t i = 0; i < tables; i++)
            add_table_of_run(run, i);
    static const uint64_t bounds[] = {UINT64_C(64) << 20, 4 << 20, 1 << 20, 1};
    for (size_t i = 0; i < VV_ARRAY_COUNT(bounds); i++) {
        fx.read_bytes_max = bounds[i];
        fx.memory_most = 0;
        vv_compaction_result r;
        cr_assert(vv_ok(run(&(rules){.bottom = true, .output_bytes = 4 << 20}, &r)));
        uint64_t bound = VV_MAX(bounds[i], runs * VV_SST_SCAN_BYTES_MIN), entries = 0;
        cr_assert_leq(fx.memory_most, bound);
        cr_assert_geq(fx.memory_most, VV_MIN(bound, runs * VV_SST_SCAN_BYTES_MIN));
        /* A table at a time of each run: 12 windows, not 60. */
        cr_assert_leq(fx.memory_most, runs * VV_SST_SCAN_BYTES_MAX);
        cr_assert_eq(fx.memory_bytes, 0);
        visit(&r, count_entry, &entries);
        cr_assert_eq(entries, runs * tables * 2000);
        vv_compaction_result_unlink(&r, &(vv_compaction_options){.dir = dir(), .writer.backend = fx.backend});
        vv_compaction_result_deinit(&r);
    }
}

Test(compaction, outputs_are_gone_when_pace_says_stop) {
    add_generated(20000, 1, 2, 0);
    add_generated(20000, 1, 2, 1);
    for (uint64_t paces = 0; paces < 3; paces++) {
        vv_compaction_result result;
        fx.paces_left = paces;
        cr_assert(vv_is(run(&(rules){.output_bytes = 200000}, &result), VV_BUSY));
        cr_assert_eq(result.output_count, 0);
        cr_assert_null(result.outputs);
        cr_assert_eq(tables_on_disk(), 2);
    }
}

Test(compaction, every_failed_operation_leaves_the_inputs_and_nothing_else) {
    add_generated(1500, 1, 2, 0);
    add_generated(1500, 1, 2, 1);
    for (uint64_t n = 1;; n++) {
        vv_compaction_result result;
        fx.op_count = 0;
        fx.fail_op = n;
        vv_status st = run(&(rules){.output_bytes = 100000}, &result);
        fx.fail_op = 0;
        if (vv_ok(st)) {
            cr_assert_gt(n, 10);
            cr_assert_gt(result.output_count, 1);
            vv_compaction_result_deinit(&result);
            break;
        }
        cr_assert(vv_is(st, VV_IO), "operation %llu: %s", (unsigned long long)n, vv_code_name(st.code));
        cr_assert_eq(result.output_count, 0);
        cr_assert_eq(tables_on_disk(), 2, "operation %llu", (unsigned long long)n);
    }
}

Test(compaction, every_failed_allocation_leaves_the_inputs_and_nothing_else) {
    add_generated(1500, 1, 2, 0);
    add_generated(1500, 1, 2, 1);
    for (uint64_t n = 1;; n++) {
        vv_compaction_result result;
        vv_alloc_fail_at(n);
        vv_status st = run(&(rules){.output_bytes = 100000}, &result);
        vv_alloc_fail_at(0);
        if (vv_ok(st)) {
            cr_assert_gt(n, 10);
            vv_compaction_result_deinit(&result);
            break;
        }
        cr_assert(vv_is(st, VV_NO_MEMORY), "allocation %llu: %s", (unsigned long long)n,
                  vv_code_name(st.code));
        cr_assert_eq(tables_on_disk(), 2, "allocation %llu", (unsigned long long)n);
    }
}

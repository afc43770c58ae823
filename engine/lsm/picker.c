#include "engine/lsm/picker.h"

#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"

/* A growing list of tables, referenced. */
typedef struct table_list {
    vv_table **items;
    size_t count;
    size_t capacity;
} table_list;

static vv_status list_add(table_list *l, vv_table *t) {
    if (l->count == l->capacity) {
        size_t capacity = l->capacity ? l->capacity * 2 : 16;
        vv_table **items = vv_realloc(l->items, capacity * sizeof *items);
        if (!items)
            return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        l->items = items;
        l->capacity = capacity;
    }
    vv_table_ref(t);
    l->items[l->count++] = t;
    return VV_STATUS_OK;
}

static void list_deinit(table_list *l) {
    for (size_t i = 0; i < l->count; i++)
        vv_table_unref(l->items[i]);
    vv_free(l->items);
    *l = (table_list){0};
}

static bool list_has(const table_list *l, const vv_table *t) {
    for (size_t i = 0; i < l->count; i++)
        if (l->items[i] == t)
            return true;
    return false;
}

void vv_compaction_plan_deinit(vv_compaction_plan *plan) {
    table_list l = {.items = plan->inputs, .count = plan->input_count};
    list_deinit(&l);
    *plan = (vv_compaction_plan){0};
}

/* ---- figures of a version ---- */

typedef struct level_figures {
    uint32_t runs;
    uint64_t bytes;
} level_figures;

static uint64_t run_bytes(const vv_run *run) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < run->table_count; i++)
        bytes += run->tables[i]->summary.file_bytes;
    return bytes;
}

static void figures(const vv_version *v, level_figures out[VV_LEVELS_MAX]) {
    memset(out, 0, VV_LEVELS_MAX * sizeof out[0]);
    for (size_t i = 0; i < v->run_count; i++) {
        uint32_t level = VV_MIN(v->runs[i].level, VV_LEVELS_MAX - 1);
        out[level].runs++;
        out[level].bytes += run_bytes(&v->runs[i]);
    }
}

/* A database that was opened with fewer levels keeps what is in the deeper ones: they count as the last. */
static uint32_t last_level(const vv_version *v, const vv_picker_options *o) {
    uint32_t last = o->levels - 1;
    for (size_t i = 0; i < v->run_count; i++)
        last = VV_MAX(last, v->runs[i].level);
    return last;
}

static uint64_t target_bytes(const vv_picker_options *o, uint32_t level) {
    uint64_t bytes = o->level1_bytes;
    for (uint32_t i = 1; i < level; i++)
        if (__builtin_mul_overflow(bytes, o->ratio, &bytes))
            return UINT64_MAX;
    return bytes;
}

/* ---- key ranges ---- */

typedef struct key_range {
    vv_slice first;
    vv_slice last;
} key_range;

static key_range range_of(const table_list *l) {
    key_range r = {vv_table_first_key(l->items[0]), vv_table_last_key(l->items[0])};
    for (size_t i = 1; i < l->count; i++) {
        vv_slice first = vv_table_first_key(l->items[i]), last = vv_table_last_key(l->items[i]);
        if (vv_slice_compare(first, r.first) < 0)
            r.first = first;
        if (vv_slice_compare(last, r.last) > 0)
            r.last = last;
    }
    return r;
}

static bool overlaps(const vv_table *t, const key_range *r) {
    return vv_slice_compare(vv_table_first_key(t), r->last) <= 0 &&
           vv_slice_compare(vv_table_last_key(t), r->first) >= 0;
}

/* Of the tables behind the inputs in run order, which hold older versions, none has their keys. Those of the
 * newest input's own run have other keys than it, and newer versions than the other inputs. */
static bool is_bottom(const vv_version *v, const table_list *inputs) {
    key_range r = range_of(inputs);
    size_t first = 0;
    while (first < v->table_count && !list_has(inputs, v->tables[first]))
        first++;
    const vv_table *newest = v->tables[first];
    for (size_t i = first; i < v->table_count; i++) {
        const vv_table *t = v->tables[i];
        bool same_run = t->level == newest->level && t->run == newest->run;
        if (!same_run && !list_has(inputs, t) && overlaps(t, &r))
            return false;
    }
    return true;
}

static void finish_plan(const vv_version *v, table_list *inputs, uint32_t level, uint64_t run,
                        vv_compaction_plan *out) {
    *out = (vv_compaction_plan){.inputs = inputs->items,
                                .input_count = inputs->count,
                                .output_level = level,
                                .output_run = run,
                                .bottom = is_bottom(v, inputs)};
    for (size_t i = 0; i < inputs->count; i++)
        out->input_bytes += inputs->items[i]->summary.file_bytes;
}

static vv_status add_level(table_list *l, const vv_version *v, uint32_t level) {
    for (size_t i = 0; i < v->table_count; i++)
        if (v->tables[i]->level == level)
            VV_TRY(list_add(l, v->tables[i]));
    return VV_STATUS_OK;
}

static vv_status add_overlapping(table_list *l, const vv_version *v, uint32_t level, const key_range *r) {
    for (size_t i = 0; i < v->table_count; i++)
        if (v->tables[i]->level == level && overlaps(v->tables[i], r))
            VV_TRY(list_add(l, v->tables[i]));
    return VV_STATUS_OK;
}

/* ---- tombstones ---- */

/* Fewer than this a cursor passes in less time than a merge is worth. */
#define TOMBSTONES_MIN 10000
/* The keys that a merge may read for each tombstone. */
#define KEYS_PER_TOMBSTONE 16

typedef struct key_figures {
    uint64_t keys;
    uint64_t tombstones;
    uint64_t max_lsn;
} key_figures;

static void count_table(key_figures *k, const vv_table *t) {
    k->keys += t->summary.key_count;
    k->tombstones += t->summary.tombstone_count;
    k->max_lsn = VV_MAX(k->max_lsn, t->summary.max_lsn);
}

/* More than half of the keys are deleted. */
static bool is_mostly_tombstones(const key_figures *k) {
    return k->tombstones > TOMBSTONES_MIN && k->tombstones > k->keys / 2;
}

/*
 * The inputs are worth a merge for the sake of `tombstones`. All of them may be dropped once they are at the
 * bottom: a merge that could drop none of them there would be picked again and again.
 */
static bool is_worth_it(const table_list *inputs, uint64_t tombstones, const vv_picker_options *o) {
    key_figures k = {0};
    for (size_t i = 0; i < inputs->count; i++)
        count_table(&k, inputs->items[i]);
    return k.max_lsn <= o->drop_lsn && k.keys / KEYS_PER_TOMBSTONE <= tombstones;
}

/* The tombstones of all runs of a level that are mostly tombstones. */
static uint64_t tombstones_of_level(const vv_version *v, uint32_t level) {
    uint64_t tombstones = 0;
    for (size_t i = 0; i < v->run_count; i++) {
        key_figures k = {0};
        for (size_t n = 0; n < v->runs[i].table_count && v->runs[i].level == level; n++)
            count_table(&k, v->runs[i].tables[n]);
        if (is_mostly_tombstones(&k))
            tombstones += k.tombstones;
    }
    return tombstones;
}

/* ---- tiered ---- */

static vv_status pick_tiered(const vv_version *v, const vv_picker_options *o, table_list *l,
                             uint32_t *level_out) {
    level_figures f[VV_LEVELS_MAX];
    uint32_t last = last_level(v, o);
    figures(v, f);
    for (uint32_t level = 0; level <= last; level++)
        if (f[level].runs >= o->threshold) {
            *level_out = VV_MIN(level + 1, last);
            return add_level(l, v, level);
        }
    for (uint32_t level = 0; level <= last; level++) {
        uint64_t tombstones = tombstones_of_level(v, level);
        if (tombstones == 0)
            continue;
        VV_TRY(add_level(l, v, level));
        if (is_worth_it(l, tombstones, o)) {
            *level_out = VV_MIN(level + 1, last);
            return VV_STATUS_OK;
        }
        list_deinit(l);
    }
    return VV_STATUS_OK;
}

/* ---- leveled ---- */

/* What a merge reads at most, in sizes of level 1: one of several tables of a level, and one of three levels.
 * Meanwhile level 0 grows. */
#define SURPLUS_LEVELS_1 4
#define THROUGH_LEVELS_1 12
/* What a level may have in a burst, in its sizes. */
#define BURST_SCORE 2.0

/* The run of a level that is one run: that of its tables, or number 1 for an empty level. */
static uint64_t level_run(const vv_version *v, uint32_t level) {
    for (size_t i = 0; i < v->run_count; i++)
        if (v->runs[i].level == level)
            return v->runs[i].number;
    return 1;
}

/* The first table of the level behind the cursor, or the first at all. */
static vv_table *table_behind(const vv_version *v, uint32_t level, const vv_picker_cursor *cursor) {
    vv_table *first = NULL;
    for (size_t i = 0; i < v->table_count; i++) {
        vv_table *t = v->tables[i];
        if (t->level != level)
            continue;
        if (!first)
            first = t;
        if (cursor->key &&
            vv_slice_compare(vv_table_first_key(t), vv_slice_make(cursor->key, cursor->key_bytes)) > 0)
            return t;
    }
    return first;
}

/* All of level 0, and what it overlaps in level 1. */
static vv_status add_level_0(table_list *l, const vv_version *v) {
    VV_TRY(add_level(l, v, 0));
    key_range r = range_of(l);
    return add_overlapping(l, v, 1, &r);
}

static uint64_t overlapping_bytes(const vv_version *v, uint32_t level, const key_range *r) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < v->table_count; i++)
        if (v->tables[i]->level == level && overlaps(v->tables[i], r))
            bytes += v->tables[i]->summary.file_bytes;
    return bytes;
}

static uint64_t list_bytes(const table_list *l) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < l->count; i++)
        bytes += l->items[i]->summary.file_bytes;
    return bytes;
}

/*
 * Level 0, with what it overlaps, is more than level 1 may have: is it written once less if all of it goes
 * through to level 2? In two steps, n bytes into level 1 and the surplus s of them on to level 2, where they
 * meet s/n of its m bytes, n + s + m s/n bytes are written; in one n + m.
 */
static bool goes_through(const table_list *l, const vv_version *v, const vv_picker_options *o, uint32_t last,
                         const key_range *r) {
    double target = (double)o->level1_bytes, n = (double)list_bytes(l);
    if (last < 2 || n <= target)
        return false;
    double s = n - target, m = (double)overlapping_bytes(v, 2, r);
    return n + m < n + s + m * s / n && n + m <= target * THROUGH_LEVELS_1;
}

static vv_status pick_level_0(const vv_version *v, const vv_picker_options *o, uint32_t last, table_list *l,
                              uint32_t *level_out) {
    *level_out = 1;
    VV_TRY(add_level_0(l, v));
    key_range r = range_of(l);
    if (!goes_through(l, v, o, last, &r))
        return VV_STATUS_OK;
    *level_out = 2;
    return add_overlapping(l, v, 2, &r);
}

/* Level 0, or a single table, with what it overlaps. A table of the last level is rewritten alone. */
static vv_status pick_leveled_tombstones(const vv_version *v, const vv_picker_options *o, uint32_t last,
                                         table_list *l, uint32_t *level_out) {
    uint64_t tombstones = tombstones_of_level(v, 0);
    if (tombstones > 0) {
        *level_out = 1;
        VV_TRY(add_level_0(l, v));
        if (is_worth_it(l, tombstones, o))
            return VV_STATUS_OK;
        list_deinit(l);
    }
    for (size_t i = 0; i < v->table_count; i++) {
        vv_table *t = v->tables[i];
        key_figures k = {0};
        count_table(&k, t);
        if (t->level == 0 || !is_mostly_tombstones(&k) || k.max_lsn > o->drop_lsn)
            continue;
        VV_TRY(list_add(l, t));
        key_range r = range_of(l);
        *level_out = VV_MIN(t->level + 1, last);
        if (t->level < last)
            VV_TRY(add_overlapping(l, v, t->level + 1, &r));
        if (is_worth_it(l, k.tombstones, o))
            return VV_STATUS_OK;
        list_deinit(l);
    }
    return VV_STATUS_OK;
}

/*
 * From a level that is too large, what it overlaps in the next included: the table whose turn it is, and
 * those that follow it, as far as they are too much and one merge may be large. Where both levels are of
 * about the same size a table overlaps two or three of the next, each of which would be rewritten as often.
 */
static vv_status add_surplus(table_list *l, const vv_version *v, const vv_picker_options *o, uint32_t level,
                             const vv_picker_cursor *cursor, uint64_t surplus_bytes) {
    const vv_table *first = table_behind(v, level, cursor);
    VV_ASSERT(first); /* the level is too large */
    double limit = (double)o->level1_bytes * SURPLUS_LEVELS_1;
    uint64_t bytes = 0;
    bool move = false;
    key_range r = {.first = vv_table_first_key(first)};
    size_t i = 0;
    while (v->tables[i] != first)
        i++;
    for (; i < v->table_count && v->tables[i]->level == level; i++) {
        r.last = vv_table_last_key(v->tables[i]);
        uint64_t more = bytes + v->tables[i]->summary.file_bytes;
        uint64_t met = overlapping_bytes(v, level + 1, &r);
        if (bytes > 0 && (bytes >= surplus_bytes || (move ? met > 0 : (double)(more + met) > limit)))
            break;
        move = met == 0; /* as far as nothing is met, nothing is written */
        VV_TRY(list_add(l, v->tables[i]));
        bytes = more;
    }
    r = range_of(l);
    return add_overlapping(l, v, level + 1, &r);
}

/* The level below 1 must be one run. Runs that another style left there are merged first. */
static vv_status pick_leveled(const vv_version *v, const vv_picker_options *o,
                              const vv_picker_cursor *cursors, table_list *l, uint32_t *level_out) {
    level_figures f[VV_LEVELS_MAX];
    uint32_t last = last_level(v, o);
    figures(v, f);
    for (uint32_t level = 1; level <= last; level++)
        if (f[level].runs > 1) {
            *level_out = level;
            return add_level(l, v, level);
        }
    if (f[0].runs >= (o->burst ? o->threshold + o->threshold / 2 : o->threshold))
        return pick_level_0(v, o, last, l, level_out);
    VV_TRY(pick_leveled_tombstones(v, o, last, l, level_out));
    if (l->count > 0)
        return VV_STATUS_OK;
    uint32_t worst = 0;
    double worst_score = o->burst ? BURST_SCORE : 1.0;
    for (uint32_t level = 1; level < last; level++) {
        double score = (double)f[level].bytes / (double)target_bytes(o, level);
        if (score > worst_score) {
            worst = level;
            worst_score = score;
        }
    }
    if (worst == 0)
        return VV_STATUS_OK;
    *level_out = worst + 1;
    return add_surplus(l, v, o, worst, &cursors[worst], f[worst].bytes - target_bytes(o, worst));
}

/* ---- around damage ---- */

static bool is_readable(const vv_run *run) {
    for (size_t i = 0; i < run->table_count; i++)
        if (vv_table_is_unreadable(run->tables[i]))
            return false;
    return true;
}

static bool has_damage(const vv_version *v) {
    for (size_t i = 0; i < v->run_count; i++)
        if (!is_readable(&v->runs[i]))
            return true;
    return false;
}

/* How many runs from `first` on, before `end`, are worth one merge: none is larger than all before it
 * together. */
static size_t alike(const vv_version *v, size_t first, size_t end) {
    uint64_t bytes = run_bytes(&v->runs[first]);
    size_t i = first + 1;
    for (; i < end && run_bytes(&v->runs[i]) <= bytes; i++)
        bytes += run_bytes(&v->runs[i]);
    return i - first;
}

/* Runs that follow each other in a level become one in the place of the newest of them. */
static vv_status pick_around(const vv_version *v, const vv_picker_options *o, table_list *l,
                             uint32_t *level_out, uint64_t *run_out) {
    for (size_t begin = 0, end; begin < v->run_count; begin = VV_MAX(end, begin + 1)) {
        const vv_run *newest = &v->runs[begin];
        for (end = begin;
             end < v->run_count && v->runs[end].level == newest->level && is_readable(&v->runs[end]);)
            end++;
        for (size_t first = begin; first < end; first++) {
            size_t count = alike(v, first, end);
            if (count < o->threshold)
                continue;
            *level_out = newest->level;
            *run_out = v->runs[first].number;
            for (size_t i = first; i < first + count; i++)
                for (size_t n = 0; n < v->runs[i].table_count; n++)
                    VV_TRY(list_add(l, v->runs[i].tables[n]));
            return VV_STATUS_OK;
        }
    }
    return VV_STATUS_OK;
}

/* ---- */

/* The inputs, which don't overlap each other, may stand in the output level as they are. */
static bool may_move(const vv_compaction_plan *plan) {
    uint32_t level = plan->inputs[0]->level;
    if (level == plan->output_level || (level == 0 && plan->input_count > 1))
        return false;
    for (size_t i = 0; i < plan->input_count; i++) {
        const vv_table *t = plan->inputs[i];
        if (t->level != level || (plan->bottom && t->summary.tombstone_count > 0))
            return false;
    }
    return true;
}

vv_status vv_pick(const vv_version *version, const vv_picker_options *o,
                  const vv_picker_cursor cursors[VV_LEVELS_MAX], vv_compaction_plan *out, bool *found_out) {
    table_list l = {0};
    uint32_t level = 0;
    *found_out = false;
    *out = (vv_compaction_plan){0};
    bool damaged = has_damage(version);
    uint64_t run = 0;
    vv_status st = damaged                            ? pick_around(version, o, &l, &level, &run)
                   : o->style == VV_COMPACTION_TIERED ? pick_tiered(version, o, &l, &level)
                                                      : pick_leveled(version, o, cursors, &l, &level);
    if (!vv_ok(st) || l.count == 0) {
        list_deinit(&l);
        return st;
    }
    if (!damaged && o->style == VV_COMPACTION_LEVELED)
        run = level_run(version, level);
    finish_plan(version, &l, level, run, out);
    out->move = run != 0 && may_move(out);
    *found_out = true;
    return st;
}

vv_status vv_pick_all(const vv_version *version, const vv_picker_options *o, vv_compaction_plan *out,
                      bool *found_out) {
    table_list l = {0};
    *found_out = false;
    *out = (vv_compaction_plan){0};
    for (size_t i = 0; i < version->table_count; i++) {
        vv_status st = list_add(&l, version->tables[i]);
        if (!vv_ok(st)) {
            list_deinit(&l);
            return st;
        }
    }
    if (l.count == 0)
        return VV_STATUS_OK;
    finish_plan(version, &l, last_level(version, o), 0, out);
    *found_out = true;
    return VV_STATUS_OK;
}

void vv_picker_advance(vv_picker_cursor cursors[VV_LEVELS_MAX], uint32_t level,
                       const vv_compaction_plan *plan) {
    vv_picker_cursor *c = &cursors[level];
    for (size_t i = 0; i < plan->input_count; i++) {
        const vv_table *t = plan->inputs[i];
        if (t->level != level)
            continue;
        vv_slice last = vv_table_last_key(t);
        uint8_t *key = vv_realloc(c->key, last.bytes);
        if (!key)
            return; /* the cursor only spreads the work: the old one will do */
        memcpy(key, last.data, last.bytes);
        c->key = key;
        c->key_bytes = last.bytes;
    }
}

uint64_t vv_compaction_debt_bytes(const vv_version *version, const vv_picker_options *o) {
    level_figures f[VV_LEVELS_MAX];
    uint32_t last = last_level(version, o);
    uint64_t debt = 0;
    if (has_damage(version)) /* what can't be merged is not waited for */
        return 0;
    figures(version, f);
    for (uint32_t level = 0; level <= last; level++) {
        if (f[level].runs >= o->threshold && (level == 0 || o->style == VV_COMPACTION_TIERED))
            debt += f[level].bytes;
        else if (o->style == VV_COMPACTION_LEVELED && level > 0 && level < last &&
                 f[level].bytes > target_bytes(o, level))
            debt += f[level].bytes - target_bytes(o, level);
    }
    return debt;
}

/*
 * mem_sort.c - sorting the records of a memtable by radix.
 *
 * Eight bytes of the keys at a time: the prefixes first, which the items hold, then, among items that those
 * leave equal, the eight bytes behind what their keys have in common. Comparing is left for few items, and
 * for what radix can't tell apart.
 *
 * Radix is stable. So versions of one key that come newest first, as internal order wants them, are found to
 * be in order, however many they are.
 */
#include "engine/mem/mem_sorted.h"

#define RUN_ITEMS   16  /* sorted by insertion before runs are merged */
#define RADIX_ITEMS 256 /* fewer are merged: a pass has a price of its own */
#define DEPTH_MAX   8   /* words of eight bytes that are looked at before items are merged */

#define WORD_BYTES 8

/* items[].prefix: a word of the key, the same of all that are compared; they are equal in what is before it.
 */
static bool item_is_before(const vv_mem_item *a, const vv_mem_item *b) {
    if (a->prefix != b->prefix)
        return a->prefix < b->prefix;
    vv_mem_target t = vv_mem_target_of(b->record);
    return vv_mem_is_before(a->record, &t);
}

static bool in_order(const vv_mem_item *items, size_t count) {
    for (size_t i = 1; i < count; i++)
        if (item_is_before(&items[i], &items[i - 1]))
            return false;
    return true;
}

/* ---- by comparison ---- */

static void sort_run(vv_mem_item *items, size_t count) {
    for (size_t i = 1; i < count; i++) {
        vv_mem_item item = items[i];
        size_t at = i;
        for (; at > 0 && item_is_before(&item, &items[at - 1]); at--)
            items[at] = items[at - 1];
        items[at] = item;
    }
}

void vv_mem_merge(const vv_mem_item *a, size_t a_count, const vv_mem_item *b, size_t b_count,
                  vv_mem_item *out) {
    /* Nothing may be NULL, and NULL + 0 is undefined. */
    const vv_mem_item *a_end = a_count ? a + a_count : a, *b_end = b_count ? b + b_count : b;
    while (a < a_end && b < b_end)
        *out++ = item_is_before(b, a) ? *b++ : *a++;
    while (a < a_end)
        *out++ = *a++;
    while (b < b_end)
        *out++ = *b++;
}

static void sort_by_merging(vv_mem_item *items, vv_mem_item *spare, size_t count) {
    vv_mem_item *from = items, *to = spare;
    for (size_t at = 0; at < count; at += RUN_ITEMS)
        sort_run(items + at, VV_MIN(RUN_ITEMS, count - at));
    for (size_t width = RUN_ITEMS; width < count; width *= 2) {
        for (size_t at = 0; at < count; at += 2 * width) {
            size_t left = VV_MIN(width, count - at);
            size_t right = VV_MIN(width, count - at - left);
            vv_mem_merge(from + at, left, from + at + left, right, to + at);
        }
        vv_mem_item *sorted = to;
        to = from;
        from = sorted;
    }
    if (from != items)
        memcpy(items, from, count * sizeof *items);
}

/* ---- by radix ---- */

/* Order by items[].prefix alone; stable. Bytes that all have in common cost no pass. */
static void sort_by_word(vv_mem_item *items, vv_mem_item *spare, size_t count) {
    size_t counts[WORD_BYTES][256] = {0};
    for (size_t i = 0; i < count; i++)
        for (unsigned byte = 0; byte < WORD_BYTES; byte++)
            counts[byte][items[i].prefix >> 8 * byte & 0xff]++;
    vv_mem_item *from = items, *to = spare;
    for (unsigned byte = 0; byte < WORD_BYTES; byte++) {
        size_t *at = counts[byte]; /* becomes the place of the next item with that value */
        if (at[from[0].prefix >> 8 * byte & 0xff] == count)
            continue;
        size_t sum = 0;
        for (unsigned value = 0; value < 256; value++) {
            size_t n = at[value];
            at[value] = sum;
            sum += n;
        }
        for (size_t i = 0; i < count; i++)
            to[at[from[i].prefix >> 8 * byte & 0xff]++] = from[i];
        vv_mem_item *sorted = to;
        to = from;
        from = sorted;
    }
    if (from != items)
        memcpy(items, from, count * sizeof *items);
}

/* How many bytes the keys have in common; at least `known` if they are as long. */
static size_t common_bytes(const vv_mem_item *items, size_t count, size_t known) {
    vv_slice first = vv_mem_record_key(items[0].record);
    size_t common = first.bytes;
    for (size_t i = 1; i < count; i++) {
        vv_slice key = vv_mem_record_key(items[i].record);
        size_t limit = VV_MIN(common, key.bytes);
        size_t at = VV_MIN(known, limit);
        while (at < limit && ((const uint8_t *)key.data)[at] == ((const uint8_t *)first.data)[at])
            at++;
        common = at;
    }
    return common;
}

static uint64_t word_at(const vv_mem_record *r, size_t at) {
    vv_slice key = vv_mem_record_key(r);
    return vv_mem_prefix(vv_slice_make((const uint8_t *)key.data + at, key.bytes - at));
}

/* Items that are not in order. known: bytes that their keys have in common, or all of a shorter one. depth:
 * words that were looked at before. */
static void sort(vv_mem_item *items, vv_mem_item *spare, size_t count, size_t known, unsigned depth) {
    if (count < RADIX_ITEMS || depth == DEPTH_MAX) {
        sort_by_merging(items, spare, count);
        return;
    }
    sort_by_word(items, spare, count);
    for (size_t at = 0, end; at < count; at = end) {
        uint64_t word = items[at].prefix;
        for (end = at + 1; end < count && items[end].prefix == word;)
            end++;
        size_t equal = end - at;
        if (in_order(items + at, equal))
            continue;
        size_t common = known + WORD_BYTES;
        if (equal >= RADIX_ITEMS) {
            common = common_bytes(items + at, equal, common);
            for (size_t i = at; i < end; i++)
                items[i].prefix = word_at(items[i].record, common);
        }
        sort(items + at, spare, equal, common, depth + 1);
        for (size_t i = at; i < end; i++)
            items[i].prefix = word;
    }
}

void vv_mem_sort(vv_mem_item *items, vv_mem_item *spare, size_t count) {
    if (!in_order(items, count))
        sort(items, spare, count, 0, 0);
}

/*
 * model.c - the state at any LSN is found by going through the writes up to it: there are few.
 */
#include "tests/sim/model.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sim_model_init(sim_model *m) {
    m->capacity = 256;
    m->writes = calloc(m->capacity, sizeof *m->writes);
    if (!m->writes)
        abort();
    m->writes[0].ends_batch = true;
    atomic_init(&m->told, 0);
    atomic_init(&m->acknowledged, 0);
}

void sim_model_deinit(sim_model *m) {
    free(m->writes);
}

uint64_t sim_model_tell(sim_model *m, sim_write w) {
    uint64_t lsn = atomic_load(&m->told) + 1;
    if (lsn == m->capacity) {
        m->capacity *= 2;
        m->writes = realloc(m->writes, m->capacity * sizeof *m->writes);
        if (!m->writes)
            abort();
    }
    m->writes[lsn] = w;
    atomic_store(&m->told, lsn);
    return lsn;
}

void sim_model_acknowledge(sim_model *m, uint64_t lsn) {
    if (lsn > atomic_load(&m->acknowledged))
        atomic_store(&m->acknowledged, lsn);
}

void sim_model_copy(sim_model *to, const sim_model *from, uint64_t lsn) {
    *to = (sim_model){.capacity = from->capacity};
    to->writes = malloc(to->capacity * sizeof *to->writes);
    if (!to->writes)
        abort();
    memcpy(to->writes, from->writes, (lsn + 1) * sizeof *to->writes);
    atomic_init(&to->told, lsn);
    atomic_init(&to->acknowledged, lsn);
}

void sim_model_go_back(sim_model *m, uint64_t lsn) {
    for (uint64_t i = lsn + 1; i < atomic_load(&m->told); i++)
        m->writes[i].ends_batch = false;
    atomic_store(&m->acknowledged, lsn);
}

size_t sim_key(uint32_t key, char *out) {
    return (size_t)sprintf(out, "%03u%.*s", key, (int)(key * 7 % 23), "abcdefghijklmnopqrstuvwxyz");
}

void sim_value(uint64_t lsn, uint32_t value_bytes, char *out) {
    uint64_t x = lsn * 0x9E3779B97F4A7C15u + 1;
    uint64_t mask = lsn % 3 ? 0x0f0f0f0f0f0f0f0fu : UINT64_MAX; /* some compress well */
    for (uint32_t i = 0; i < value_bytes; i += sizeof x) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        uint64_t word = (x ^ x >> 29) & mask;
        memcpy(out + i, &word, value_bytes - i < sizeof word ? value_bytes - i : sizeof word);
    }
}

/* The newest write of each key up to lsn: its LSN, 0 if the key is not there. */
static void state_at(const sim_model *m, uint64_t lsn, uint64_t newest[SIM_KEYS]) {
    memset(newest, 0, SIM_KEYS * sizeof *newest);
    for (uint64_t i = 1; i <= lsn; i++)
        newest[m->writes[i].key] = m->writes[i].deleted ? 0 : i;
}

static char words[512];

__attribute__((format(printf, 1, 2))) static const char *wrong(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    return words;
}

static bool same(const sim_model *m, uint64_t lsn, const void *data, size_t bytes) {
    static char value[SIM_VALUE_BYTES_MAX];
    sim_value(lsn, m->writes[lsn].value_bytes, value);
    return bytes == m->writes[lsn].value_bytes && memcmp(data, value, bytes) == 0;
}

static const char *compare_gets(const sim_model *m, varve_db *db, const uint64_t *newest) {
    for (uint32_t key = 0; key < SIM_KEYS; key++) {
        char text[64];
        varve_value v;
        varve_status st = varve_get(db, text, sim_key(key, text), &v);
        if (st.code == VARVE_NOT_FOUND && newest[key] == 0)
            continue;
        if (st.code != VARVE_OK)
            return wrong("get of key %u: %s, written at LSN %" PRIu64, key, varve_code_name(st.code),
                         newest[key]);
        bool right = newest[key] != 0 && v.lsn == newest[key] && same(m, v.lsn, v.data, v.bytes);
        uint64_t lsn = v.lsn;
        varve_value_release(&v);
        if (!right)
            return wrong("get of key %u: the value of LSN %" PRIu64 ", wanted that of %" PRIu64, key, lsn,
                         newest[key]);
    }
    return NULL;
}

static const char *compare_scan(const sim_model *m, varve_db *db, const uint64_t *newest, bool backwards) {
    varve_iter *it;
    const char *found = NULL;
    varve_status st = varve_iter_create(db, NULL, &it);
    if (!varve_ok(st))
        return wrong("scan: %s", varve_code_name(st.code));
    (backwards ? varve_iter_last : varve_iter_first)(it);
    for (uint32_t i = 0; i < SIM_KEYS && !found; i++) {
        uint32_t key = backwards ? SIM_KEYS - 1 - i : i;
        if (newest[key] == 0)
            continue;
        char text[64];
        size_t bytes = sim_key(key, text);
        varve_entry e;
        if (!varve_iter_valid(it)) {
            found = wrong("%sscan ends before key %u: %s", backwards ? "backward " : "", key,
                          varve_code_name(varve_iter_status(it).code));
            break;
        }
        varve_iter_entry(it, &e);
        if (e.key_bytes != bytes || memcmp(e.key, text, bytes) != 0)
            found = wrong("%sscan has '%.*s' for key %u", backwards ? "backward " : "", (int)e.key_bytes,
                          (const char *)e.key, key);
        else if (e.lsn != newest[key] || !same(m, newest[key], e.value, e.value_bytes))
            found = wrong("%sscan has the value of LSN %" PRIu64 " for key %u, wanted that of %" PRIu64,
                          backwards ? "backward " : "", e.lsn, key, newest[key]);
        else
            (backwards ? varve_iter_prev : varve_iter_next)(it);
    }
    if (!found && (varve_iter_valid(it) || !varve_ok(varve_iter_status(it))))
        found = wrong("%sscan goes on behind the last key: %s", backwards ? "backward " : "",
                      varve_code_name(varve_iter_status(it).code));
    varve_iter_destroy(it);
    return found;
}

const char *sim_model_compare(const sim_model *m, varve_db *db, uint64_t least, uint64_t most) {
    uint64_t newest[SIM_KEYS], lsn = varve_visible_lsn(db);
    if (lsn < least || lsn > most)
        return wrong("LSN %" PRIu64 ", acknowledged was %" PRIu64 ", told %" PRIu64, lsn, least, most);
    if (!m->writes[lsn].ends_batch)
        return wrong("LSN %" PRIu64 " is inside a batch", lsn);
    state_at(m, lsn, newest);
    const char *found = compare_gets(m, db, newest);
    if (!found)
        found = compare_scan(m, db, newest, false);
    return found ? found : compare_scan(m, db, newest, true);
}

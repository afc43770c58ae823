/*
 * output.c - answers as bytes, digits or JSON.
 */
#include "cli/output.h"

#include <jansson.h>
#include <stdlib.h>

#include "base/compiler.h"

/* One line; takes the reference. */
static void print_json(FILE *out, json_t *object) {
    if (!object || json_dumpf(object, out, JSON_COMPACT) != 0) {
        fprintf(stderr, "varve: the answer could not be written as JSON\n");
        exit(3);
    }
    json_decref(object);
    fputc('\n', out);
}

static json_t *json_bytes(vv_slice raw, bool hex) {
    vv_bytes text = {0};
    if (hex)
        vv_bytes_to_hex(&text, raw);
    else
        vv_bytes_to_base64(&text, raw);
    json_t *string = json_stringn((const char *)text.data, text.bytes);
    if (text.bytes == 0)
        string = json_string("");
    vv_bytes_deinit(&text);
    return string;
}

void vv_output_value(FILE *out, vv_slice key, const vv_client_value *value, bool json, bool hex) {
    vv_slice raw = vv_bytes_slice(&value->bytes);
    if (json) {
        json_t *object = json_pack("{s:b, s:o, s:o, s:I}", "found", 1, "key", json_bytes(key, hex), "value",
                                   json_bytes(raw, hex), "lsn", (json_int_t)value->lsn);
        if (value->expires_unix_ms != 0)
            json_object_set_new(object, "expires_unix_ms", json_integer((json_int_t)value->expires_unix_ms));
        print_json(out, object);
    } else if (hex) {
        vv_bytes digits = {0};
        vv_bytes_to_hex(&digits, raw);
        vv_bytes_push(&digits, '\n');
        fwrite(digits.data, 1, digits.bytes, out);
        vv_bytes_deinit(&digits);
    } else if (raw.bytes != 0) {
        fwrite(raw.data, 1, raw.bytes, out);
    }
}

/* As a word of a batch script, or as digits. */
static void print_word(FILE *out, vv_slice raw, bool hex) {
    vv_bytes text = {0};
    if (hex)
        vv_bytes_to_hex(&text, raw);
    else
        vv_bytes_to_word(&text, raw);
    if (text.bytes)
        fwrite(text.data, 1, text.bytes, out);
    vv_bytes_deinit(&text);
}

void vv_output_entry(FILE *out, const varve_entry *entry, bool keys_only, bool json, bool hex) {
    vv_slice key = vv_slice_make(entry->key, entry->key_bytes);
    vv_slice value = vv_slice_make(entry->value, entry->value_bytes);
    if (json) {
        json_t *object = json_pack("{s:o, s:I}", "key", json_bytes(key, hex), "lsn", (json_int_t)entry->lsn);
        if (!keys_only)
            json_object_set_new(object, "value", json_bytes(value, hex));
        print_json(out, object);
        return;
    }
    print_word(out, key, hex);
    if (!keys_only) {
        fputc('\t', out);
        print_word(out, value, hex);
    }
    fputc('\n', out);
}

void vv_output_not_found(FILE *out, vv_slice key, bool hex) {
    print_json(out, json_pack("{s:b, s:o}", "found", 0, "key", json_bytes(key, hex)));
}

void vv_output_lsn(FILE *out, uint64_t lsn, size_t operations) {
    json_t *object = json_pack("{s:I}", "lsn", (json_int_t)lsn);
    if (operations != 0)
        json_object_set_new(object, "operations", json_integer((json_int_t)operations));
    print_json(out, object);
}

void vv_output_health(FILE *out, vv_client_health health, bool json) {
    static const char *const names[] = {"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"};
    if (json)
        print_json(out, json_pack("{s:s}", "status", names[health]));
    else
        fprintf(out, "%s\n", names[health]);
}

void vv_output_stats(FILE *out, const varve_stats *s, bool json) {
    const struct {
        const char *name;
        uint64_t value;
    } numbers[] = {
        {"last_lsn", s->last_lsn},
        {"durable_lsn", s->durable_lsn},
        {"flushed_lsn", s->flushed_lsn},
        {"memtable_bytes", s->memtable_bytes},
        {"immutable_count", s->immutable_count},
        {"immutable_bytes", s->immutable_bytes},
        {"sstable_count", s->sstable_count},
        {"sstable_bytes", s->sstable_bytes},
        {"wal_segment_count", s->wal_segment_count},
        {"wal_bytes", s->wal_bytes},
        {"wal_commits", s->wal_commits},
        {"wal_records", s->wal_records},
        {"flushes", s->flushes},
        {"write_stalls", s->write_stalls},
        {"write_delays", s->write_delays},
        {"write_delay_us", s->write_delay_us},
        {"cache_bytes", s->cache_bytes},
        {"cache_hits", s->cache_hits},
        {"cache_misses", s->cache_misses},
        {"open_tables", s->open_tables},
        {"sorted_run_count", s->sorted_run_count},
        {"flush_bytes", s->flush_bytes},
        {"compactions", s->compactions},
        {"compaction_read_bytes", s->compaction_read_bytes},
        {"compaction_written_bytes", s->compaction_written_bytes},
        {"compaction_debt_bytes", s->compaction_debt_bytes},
        {"dropped_versions", s->dropped_versions},
        {"dropped_tombstones", s->dropped_tombstones},
        {"safe_compaction_lsn", s->safe_compaction_lsn},
        {"memory_bytes", s->memory_bytes},
        {"cache_memory_bytes", s->cache_memory_bytes},
        {"table_memory_bytes", s->table_memory_bytes},
        {"wal_memory_bytes", s->wal_memory_bytes},
        {"io_memory_bytes", s->io_memory_bytes},
        {"retry_memory_bytes", s->retry_memory_bytes},
        {"retried_writes", s->retried_writes},
    };
    json_t *object = json ? json_object() : NULL;
    for (size_t i = 0; i < VV_ARRAY_COUNT(numbers); i++) {
        if (json)
            json_object_set_new(object, numbers[i].name, json_integer((json_int_t)numbers[i].value));
        else
            fprintf(out, "%s %llu\n", numbers[i].name, (unsigned long long)numbers[i].value);
    }
    if (json) {
        json_object_set_new(object, "wal_failed", json_boolean(s->wal_failed));
        json_object_set_new(object, "io_backend", json_string(s->io_backend));
        print_json(out, object);
    } else {
        fprintf(out, "wal_failed %s\nio_backend %s\n", s->wal_failed ? "true" : "false", s->io_backend);
    }
}

void vv_output_done(FILE *out) {
    print_json(out, json_object());
}

/*
 * output.c - answers as bytes, digits or JSON.
 */
#include "cli/output.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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
    json_t *string = json_stringn(text.bytes ? (const char *)text.data : "", text.bytes);
    vv_bytes_deinit(&text);
    return string;
}

void vv_output_error(FILE *out, const vv_client_error *err) {
    bool reason = err->reason[0] != '\0';
    fprintf(out, "%s%s%s%s: %s", err->code, reason ? " (" : "", err->reason, reason ? ")" : "", err->message);
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
void vv_output_word(FILE *out, vv_slice raw, bool hex) {
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
    vv_output_word(out, key, hex);
    if (!keys_only) {
        fputc('\t', out);
        vv_output_word(out, value, hex);
    }
    fputc('\n', out);
}

void vv_output_event(FILE *out, const vv_client_event *e, bool json, bool hex) {
    static const char *const names[] = {
        [VV_CLIENT_EVENT_PUT] = "put", [VV_CLIENT_EVENT_DELETE] = "delete", [VV_CLIENT_EVENT_MARK] = "mark"};
    bool mark = e->kind == VV_CLIENT_EVENT_MARK;
    if (json) {
        json_t *object = json_pack("{s:s, s:I}", "event", names[e->kind], "lsn", (json_int_t)e->lsn);
        if (!mark)
            json_object_set_new(object, "key", json_bytes(e->key, hex));
        if (e->kind == VV_CLIENT_EVENT_PUT)
            json_object_set_new(object, "value", json_bytes(e->value, hex));
        if (e->expires_unix_ms != 0)
            json_object_set_new(object, "expires_unix_ms", json_integer((json_int_t)e->expires_unix_ms));
        print_json(out, object);
    } else if (!mark) {
        fprintf(out, "%llu\t%s\t", (unsigned long long)e->lsn, names[e->kind]);
        vv_output_word(out, e->key, hex);
        if (e->kind == VV_CLIENT_EVENT_PUT) {
            fputc('\t', out);
            vv_output_word(out, e->value, hex);
        }
        fputc('\n', out);
    }
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

void vv_output_loaded(FILE *out, uint64_t entries, uint64_t bytes, uint64_t lsn, double seconds, bool json) {
    if (json)
        print_json(out, json_pack("{s:I, s:I, s:I, s:f}", "entries", (json_int_t)entries, "bytes",
                                  (json_int_t)bytes, "lsn", (json_int_t)lsn, "seconds", seconds));
    else
        fprintf(out, "%llu entries, %llu bytes in %.1f s, %.0f entries a second, up to LSN %llu\n",
                (unsigned long long)entries, (unsigned long long)bytes, seconds,
                seconds > 0 ? (double)entries / seconds : 0, (unsigned long long)lsn);
}

void vv_output_duration(char *buf, size_t buf_bytes, uint64_t ns) {
    static const char *const units[] = {"us", "ms", "s"};
    double value = (double)ns / 1e3;
    size_t unit = 0;
    for (; value >= 999.5 && unit + 1 < VV_ARRAY_COUNT(units); unit++)
        value /= 1000;
    snprintf(buf, buf_bytes, "%.*f %s", value < 9.995 ? 2 : value < 99.95 ? 1 : 0, value, units[unit]);
}

void vv_output_bench(FILE *out, const vv_bench_line *l, bool json) {
    double rate = l->seconds > 0 ? (double)l->calls / l->seconds : 0;
    static const char *const names[] = {"p50", "p90", "p99", "p99.9", "max"};
    static const char *const fields[] = {"p50_us", "p90_us", "p99_us", "p999_us", "max_us"};
    const uint64_t ns[] = {l->p50_ns, l->p90_ns, l->p99_ns, l->p999_ns, l->max_ns};
    if (json) {
        json_t *object =
            json_pack("{s:s, s:f, s:I, s:I, s:f}", "what", l->what, "seconds", l->seconds, "calls",
                      (json_int_t)l->calls, "failed", (json_int_t)l->failed, "rate", rate);
        for (size_t i = 0; i < VV_ARRAY_COUNT(ns); i++)
            json_object_set_new(object, fields[i], json_real((double)ns[i] / 1e3));
        print_json(out, object);
        return;
    }
    fprintf(out, "%6s  %10.0f calls/s ", l->what, rate);
    for (size_t i = 0; i < VV_ARRAY_COUNT(ns); i++) {
        char text[32];
        vv_output_duration(text, sizeof text, ns[i]);
        fprintf(out, "  %s %s", names[i], text);
    }
    if (l->failed > 0)
        fprintf(out, "  %llu failed", (unsigned long long)l->failed);
    fputc('\n', out);
}

void vv_output_health(FILE *out, vv_client_health health, bool json) {
    static const char *const names[] = {"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"};
    if (json)
        print_json(out, json_pack("{s:s}", "status", names[health]));
    else
        fprintf(out, "%s\n", names[health]);
}

void vv_client_stats_add(vv_client_stats *stats, const char *name, uint64_t value) {
    /* A newer server may have more than we know of, and wal_failed is shown as what it is. */
    if (stats->count == VV_CLIENT_NUMBERS_MAX || strcmp(name, "wal_failed") == 0)
        return;
    snprintf(stats->numbers[stats->count].name, sizeof stats->numbers[0].name, "%s", name);
    stats->numbers[stats->count++].value = value;
}

static json_t *json_number(uint64_t value) {
    return json_integer((json_int_t)value);
}

void vv_output_stats(FILE *out, const vv_client_stats *s, bool json) {
    json_t *object = json ? json_object() : NULL;
    for (size_t i = 0; i < s->count; i++) {
        if (json)
            json_object_set_new(object, s->numbers[i].name, json_number(s->numbers[i].value));
        else
            fprintf(out, "%s %llu\n", s->numbers[i].name, (unsigned long long)s->numbers[i].value);
    }
    if (json) {
        json_object_set_new(object, "wal_failed", json_boolean(s->wal_failed));
        json_object_set_new(object, "io_backend", json_string(s->io_backend));
        print_json(out, object);
    } else {
        fprintf(out, "wal_failed %s\nio_backend %s\n", s->wal_failed ? "true" : "false", s->io_backend);
    }
}

/* A text, which is anybody's: as a word. */
static void put_text(FILE *out, json_t *object, const char *name, const char *text) {
    if (object) {
        json_object_set_new(object, name, json_string(text));
        return;
    }
    fprintf(out, "%s ", name);
    vv_output_word(out, vv_slice_str(text), false);
    fputc('\n', out);
}

static void put_bool(FILE *out, json_t *object, const char *name, bool value) {
    if (object)
        json_object_set_new(object, name, json_boolean(value));
    else
        fprintf(out, "%s %s\n", name, value ? "true" : "false");
}

static void put_replicas(FILE *out, json_t *object, const vv_client_status *s) {
    json_t *list = object ? json_array() : NULL;
    if (object)
        json_object_set_new(object, "replicas", list);
    else
        fprintf(out, "replicas %zu\n", s->replica_count);
    for (size_t i = 0; i < s->replica_count; i++) {
        const vv_client_replica *r = &s->replicas[i];
        if (object) {
            json_array_append_new(list,
                                  json_pack("{s:s, s:b, s:b, s:I, s:I, s:I, s:s}", "slot", r->slot,
                                            "connected", r->connected, "lost", r->lost, "confirmed_lsn",
                                            (json_int_t)r->confirmed_lsn, "lag_lsn", (json_int_t)r->lag_lsn,
                                            "held_bytes", (json_int_t)r->held_bytes, "peer", r->peer));
            continue;
        }
        fputs("  ", out);
        vv_output_word(out, vv_slice_str(r->slot), false);
        fprintf(out, ": %s, at LSN %llu, %llu behind, %llu bytes of log are kept for it",
                r->lost        ? "lost, has to begin anew"
                : r->connected ? "connected"
                               : "not connected",
                (unsigned long long)r->confirmed_lsn, (unsigned long long)r->lag_lsn,
                (unsigned long long)r->held_bytes);
        if (r->peer[0]) {
            fputs(", ", out);
            vv_output_word(out, vv_slice_str(r->peer), false);
        }
        fputc('\n', out);
    }
}

typedef struct named_number {
    const char *name;
    uint64_t value;
} named_number;

static void put_numbers(FILE *out, json_t *object, const named_number *numbers, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (object)
            json_object_set_new(object, numbers[i].name, json_number(numbers[i].value));
        else
            fprintf(out, "%s %llu\n", numbers[i].name, (unsigned long long)numbers[i].value);
    }
}

/* What it is among others. */
static void put_replication(FILE *out, json_t *object, const vv_client_status *s) {
    if (s->node[0])
        put_text(out, object, "node", s->node);
    if (strcmp(s->role, "primary") == 0) {
        named_number numbers[] = {{"quorum", s->quorum}, {"committed_lsn", s->committed_lsn}};
        put_numbers(out, object, numbers, VV_ARRAY_COUNT(numbers));
        put_replicas(out, object, s);
        return;
    }
    named_number numbers[] = {{"applied_lsn", s->applied_lsn},
                              {"lag_lsn", s->lag_lsn},
                              {"lag_bytes", s->lag_bytes},
                              {"lag_ms", s->lag_ms}};
    put_text(out, object, "primary", s->primary);
    put_bool(out, object, "connected", s->connected);
    put_numbers(out, object, numbers, VV_ARRAY_COUNT(numbers));
}

void vv_output_status(FILE *out, const vv_client_status *s, bool json) {
    named_number numbers[] = {{"last_lsn", s->last_lsn},
                              {"durable_lsn", s->durable_lsn},
                              {"flushed_lsn", s->flushed_lsn},
                              {"safe_compaction_lsn", s->safe_compaction_lsn},
                              {"epoch", s->epoch},
                              {"promised_epoch", s->promised_epoch},
                              {"uptime_ms", s->uptime_ms}};
    json_t *object = NULL;
    if (json)
        object = json_pack("{s:s, s:s, s:b, s:b, s:s}", "version", s->version, "role", s->role, "serving",
                           s->serving, "wal_failed", s->wal_failed, "io_backend", s->io_backend);
    else
        fprintf(out, "version %s\nrole %s\nserving %s\nwal_failed %s\nio_backend %s\n", s->version, s->role,
                s->serving ? "true" : "false", s->wal_failed ? "true" : "false", s->io_backend);
    put_numbers(out, object, numbers, VV_ARRAY_COUNT(numbers));
    put_replication(out, object, s);
    if (json)
        print_json(out, object);
}

void vv_output_restored(FILE *out, const varve_restore_info *r, bool json) {
    char text[64] = "";
    time_t s = (time_t)(r->unix_ms / 1000);
    struct tm utc;
    if (json) {
        print_json(out, json_pack("{s:I, s:I, s:I, s:I}", "backup_lsn", (json_int_t)r->backup_lsn, "lsn",
                                  (json_int_t)r->lsn, "unix_ms", (json_int_t)r->unix_ms, "records",
                                  (json_int_t)r->records));
        return;
    }
    if (r->unix_ms != 0 && gmtime_r(&s, &utc) && strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc) > 0)
        snprintf(text + strlen(text), sizeof text - strlen(text), ".%03uZ", (unsigned)(r->unix_ms % 1000));
    fprintf(out, "LSN %llu: a backup of LSN %llu and %llu records of the archive%s%s\n",
            (unsigned long long)r->lsn, (unsigned long long)r->backup_lsn, (unsigned long long)r->records,
            text[0] ? ", the last archived at " : "", text);
}

static json_t *json_keys(const char keys[][48], size_t count) {
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_string(keys[i]));
    return list;
}

void vv_output_reload(FILE *out, const vv_client_reload_report *r, bool json) {
    if (json) {
        print_json(out, json_pack("{s:o, s:o}", "changed", json_keys(r->changed, r->changed_count),
                                  "restart_needed", json_keys(r->restart_needed, r->restart_count)));
        return;
    }
    for (size_t i = 0; i < r->changed_count; i++)
        fprintf(out, "changed %s\n", r->changed[i]);
    for (size_t i = 0; i < r->restart_count; i++)
        fprintf(out, "restart needed %s\n", r->restart_needed[i]);
}

void vv_output_epoch(FILE *out, uint64_t epoch, bool json) {
    if (json)
        print_json(out, json_pack("{s:I}", "epoch", (json_int_t)epoch));
    else
        fprintf(out, "primary of epoch %llu\n", (unsigned long long)epoch);
}

void vv_output_backup(FILE *out, const varve_backup_info *info, bool json) {
    if (json)
        print_json(out, json_pack("{s:I, s:I, s:I, s:I}", "lsn", (json_int_t)info->lsn, "file_count",
                                  (json_int_t)info->file_count, "bytes", (json_int_t)info->bytes,
                                  "copied_bytes", (json_int_t)info->copied_bytes));
    else
        fprintf(out, "LSN %llu: %llu files, %llu bytes, of which %llu were copied\n",
                (unsigned long long)info->lsn, (unsigned long long)info->file_count,
                (unsigned long long)info->bytes, (unsigned long long)info->copied_bytes);
}

static json_t *json_damage(const varve_damage *d, bool hex) {
    json_t *object =
        json_pack("{s:s, s:I, s:s}", "file", d->file, "offset", (json_int_t)d->offset, "message", d->text);
    if (d->first_key)
        json_object_set_new(object, "first_key",
                            json_bytes(vv_slice_make(d->first_key, d->first_key_bytes), hex));
    if (d->last_key)
        json_object_set_new(object, "last_key",
                            json_bytes(vv_slice_make(d->last_key, d->last_key_bytes), hex));
    if (d->first_lsn)
        json_object_set_new(object, "first_lsn", json_integer((json_int_t)d->first_lsn));
    if (d->first_lsn && d->last_lsn != UINT64_MAX)
        json_object_set_new(object, "last_lsn", json_integer((json_int_t)d->last_lsn));
    return object;
}

void vv_output_repair(FILE *out, const varve_damage *d, bool lost, bool json, bool hex) {
    if (json) {
        print_json(out, json_pack("{s:o}", lost ? "lost" : "damage", json_damage(d, hex)));
        return;
    }
    fputs(lost ? "lost: " : "damaged: ", out);
    vv_output_damage(out, d, false, hex);
}

void vv_output_repaired(FILE *out, const varve_repair_result *r, const char *dir, bool dry_run, bool json) {
    if (json) {
        print_json(out, json_pack("{s:b, s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "sound",
                                  (int)r->sound, "manifest_rebuilt", (int)r->manifest_rebuilt,
                                  "may_resurrect", (int)r->may_resurrect, "damage_count",
                                  (json_int_t)r->damage_count, "loss_count", (json_int_t)r->loss_count,
                                  "tables_kept", (json_int_t)r->tables_kept, "tables_rewritten",
                                  (json_int_t)r->tables_rewritten, "tables_lost", (json_int_t)r->tables_lost,
                                  "last_lsn", (json_int_t)r->last_lsn, "originals", r->originals));
        return;
    }
    if (r->sound) {
        fprintf(out, "nothing to repair\n");
        return;
    }
    fprintf(out, "%llu damaged, %llu parts lost", (unsigned long long)r->damage_count,
            (unsigned long long)r->loss_count);
    if (!dry_run)
        fprintf(out, "; repaired up to LSN %llu: %llu tables kept, %llu written anew, %llu lost",
                (unsigned long long)r->last_lsn, (unsigned long long)r->tables_kept,
                (unsigned long long)r->tables_rewritten, (unsigned long long)r->tables_lost);
    fputc('\n', out);
    if (r->manifest_rebuilt)
        fprintf(out,
                "the manifest %s rebuilt: the database %s another id, and slots, remembered writes and a "
                "limit of "
                "commits are lost\n",
                dry_run ? "has to be" : "was", dry_run ? "will get" : "has");
    if (r->may_resurrect)
        fprintf(out, "keys that were deleted or overwritten may be back as they were before\n");
    if (r->originals[0])
        fprintf(out, "what was there is in %s/%s\n", dir, r->originals);
}

void vv_output_damage(FILE *out, const varve_damage *d, bool json, bool hex) {
    vv_slice first = vv_slice_make(d->first_key, d->first_key_bytes);
    vv_slice last = vv_slice_make(d->last_key, d->last_key_bytes);
    if (json) {
        print_json(out, json_damage(d, hex));
        return;
    }
    fputs(d->text, out);
    if (d->last_key) {
        fputs("; keys that may be lost: ", out);
        vv_output_word(out, first, hex);
        fputs(" to ", out);
        vv_output_word(out, last, hex);
    }
    fputc('\n', out);
}

static json_t *json_field(const varve_field *f, bool hex) {
    switch (f->kind) {
    case VARVE_FIELD_FLAG: return json_boolean(f->number != 0);
    case VARVE_FIELD_TEXT: return json_stringn(f->data, f->bytes);
    case VARVE_FIELD_BYTES: return json_bytes(vv_slice_make(f->data, f->bytes), hex);
    case VARVE_FIELD_ID: return json_bytes(vv_slice_make(f->data, f->bytes), true);
    case VARVE_FIELD_NUMBER: break;
    }
    return json_number(f->number);
}

static void print_field(FILE *out, const varve_field *f, bool hex) {
    fprintf(out, " %s=", f->name);
    switch (f->kind) {
    case VARVE_FIELD_FLAG: fputs(f->number ? "yes" : "no", out); break;
    case VARVE_FIELD_TEXT: fwrite(f->data, 1, f->bytes, out); break;
    case VARVE_FIELD_BYTES: vv_output_word(out, vv_slice_make(f->data, f->bytes), hex); break;
    case VARVE_FIELD_ID: vv_output_word(out, vv_slice_make(f->data, f->bytes), true); break;
    case VARVE_FIELD_NUMBER: fprintf(out, "%llu", (unsigned long long)f->number); break;
    }
}

void vv_output_item(FILE *out, const varve_item *item, bool keys_only, bool json, bool hex) {
    json_t *object = json ? json_pack("{s:s}", "item", item->kind) : NULL;
    if (!json)
        fputs(item->kind, out);
    for (size_t i = 0; i < item->field_count; i++) {
        const varve_field *f = &item->fields[i];
        if (keys_only && strcmp(f->name, "value") == 0)
            continue;
        if (json)
            json_object_set_new(object, f->name, json_field(f, hex));
        else
            print_field(out, f, hex);
    }
    if (json)
        print_json(out, object);
    else
        fputc('\n', out);
}

void vv_output_verified(FILE *out, const varve_verify_result *r, bool json) {
    if (json)
        print_json(out, json_pack("{s:I, s:I, s:I, s:I}", "file_count", (json_int_t)r->file_count,
                                  "block_count", (json_int_t)r->block_count, "bytes", (json_int_t)r->bytes,
                                  "damage_count", (json_int_t)r->damage_count));
    else
        fprintf(out, "%llu files, %llu blocks, %llu bytes read: %llu damaged\n",
                (unsigned long long)r->file_count, (unsigned long long)r->block_count,
                (unsigned long long)r->bytes, (unsigned long long)r->damage_count);
}

void vv_output_done(FILE *out) {
    print_json(out, json_object());
}

/*
 * output.h - how an answer looks on stdout: as it is, in hexadecimal digits, or as one line of JSON.
 */
#ifndef VV_CLI_OUTPUT_H
#define VV_CLI_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "cli/client.h"

/* A value that was found. json: key and value are base64, with hex hexadecimal digits. */
void vv_output_value(FILE *out, vv_slice key, const vv_client_value *value, bool json, bool hex);

/* "CODE (REASON): message", no newline. */
void vv_output_error(FILE *out, const vv_client_error *err);

/* As a word of script.h, or in hexadecimal digits; no newline. */
void vv_output_word(FILE *out, vv_slice raw, bool hex);

/* A change, a line; marks in JSON only. */
void vv_output_event(FILE *out, const vv_client_event *event, bool json, bool hex);

/* An entry of a scan, a line; without its value if keys_only. */
void vv_output_entry(FILE *out, const varve_entry *entry, bool keys_only, bool json, bool hex);

/* That there is no such key, for JSON only. */
void vv_output_not_found(FILE *out, vv_slice key, bool hex);

/* {"lsn": N}, and "operations" unless 0. */
void vv_output_lsn(FILE *out, uint64_t lsn, size_t operations);

void vv_output_loaded(FILE *out, uint64_t entries, uint64_t bytes, uint64_t lsn, double seconds, bool json);

/* "0.87 us", "87.0 us", "1.25 ms": three digits. */
void vv_output_duration(char *buf, size_t buf_bytes, uint64_t ns);

/* A line of bench: what was measured in so many seconds. */
typedef struct vv_bench_line {
    const char *what; /* "3 s", "all" */
    double seconds;
    uint64_t calls; /* that were carried out */
    uint64_t failed;
    uint64_t p50_ns, p90_ns, p99_ns, p999_ns, max_ns;
} vv_bench_line;
void vv_output_bench(FILE *out, const vv_bench_line *line, bool json);

void vv_output_health(FILE *out, vv_client_health health, bool json);

void vv_output_stats(FILE *out, const vv_client_stats *stats, bool json);

void vv_output_status(FILE *out, const vv_client_status *status, bool json);

void vv_output_backup(FILE *out, const varve_backup_info *info, bool json);

void vv_output_restored(FILE *out, const varve_restore_info *info, bool json);

void vv_output_reload(FILE *out, const vv_client_reload_report *report, bool json);

void vv_output_epoch(FILE *out, uint64_t epoch, bool json);

/* A line for each damage; then one for all. */
void vv_output_damage(FILE *out, const varve_damage *damage, bool json, bool hex);
/* What a repair says: a damage, or a loss (lost). */
void vv_output_repair(FILE *out, const varve_damage *d, bool lost, bool json, bool hex);
void vv_output_repaired(FILE *out, const varve_repair_result *r, const char *dir, bool dry_run, bool json);

/* An item of inspect: a line. keys_only: without the field "value". */
void vv_output_item(FILE *out, const varve_item *item, bool keys_only, bool json, bool hex);

void vv_output_verified(FILE *out, const varve_verify_result *result, bool json);

/* {} */
void vv_output_done(FILE *out);

#endif

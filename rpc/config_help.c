/*
 * config_help.c - what varved says of itself: --help, and the manual page, from the same table of keys.
 */
#include "base/manual.h"
#include "rpc/config.h"

#define MANUAL_COLUMN 22

#define SYNOPSIS                                                                                             \
    "varved [--config FILE] [--data DIR] [--listen ADDR]... [--metrics-listen ADDR] [--follow ADDR] "        \
    "[--KEY=VALUE]... [--print-config] [--help] [--version]\n"
#define RULES                                                                                                \
    "ADDR is HOST:PORT (port 0 picks one) or unix:PATH. A key may also stand in the environment "            \
    "(VARVE_KEY) or in FILE (KEY = VALUE, # and ; start comments); flags come first, then the environment, " \
    "then the "                                                                                              \
    "file. Keys in any case, - or _; sizes take KiB, MiB, GiB, durations us, ms, s.\n"                       \
    "--print-config checks all of that, prints what is in force and where it was set, as a file for "        \
    "--config, and starts nothing.\n"                                                                        \
    "SIGTERM and SIGINT end the server once calls in flight are over; a second one does not wait.\n"

static void help_key(FILE *to, const vv_server_key *key) {
    fprintf(to, "%c %-34s %-14s %s%s%s\n", key->live ? '*' : ' ', key->key,
            *key->default_value ? key->default_value : "(none)", key->meaning, *key->allowed ? "; " : "",
            key->allowed);
}

void vv_server_config_help(FILE *to) {
    vv_manual m = {.out = to};
    fprintf(to, "varved %s: serves a Varve database over gRPC\n\n", varve_version());
    vv_manual_text(&m, "usage: " SYNOPSIS "\n" RULES
                       "SIGHUP has all of it read again; with * below: it applies at once, others need a "
                       "restart.\n");
    fprintf(to, "\n  %-34s %-14s %s\n", "key", "default", "meaning; what is allowed");
    vv_server_key k;
    for (size_t i = 0; vv_server_config_key(i, &k); i++)
        help_key(to, &k);
}

static void manual_key(const vv_manual *m, const vv_server_key *key) {
    char text[1024];
    bool any = *key->default_value != '\0';
    snprintf(text, sizeof text, "%s%s%s (default: %s%s)\n", key->meaning, *key->allowed ? "; " : "",
             key->allowed, any ? key->default_value : "none", key->live ? "; a reload applies it" : "");
    vv_manual_item(m, key->key, text, MANUAL_COLUMN);
}

void vv_server_config_manual(FILE *to) {
    vv_manual m = {.out = to, .roff = true};
    vv_manual_begin(&m, "varved", 8, varve_version(), "varved - serve a Varve database over gRPC");
    vv_manual_heading(&m, "Synopsis");
    vv_manual_text(&m, SYNOPSIS);
    vv_manual_heading(&m, "Description");
    vv_manual_text(
        &m, "varved opens the database in DIR, or makes it, and serves it on each ADDR. Once it is ready "
            "it prints a line \"listening on ADDR\" for each on standard output, with the port that it "
            "has; its log goes to standard error. What a client was told is done survives the loss of "
            "power, unless the client asked for less.\n");
    vv_manual_heading(&m, "Configuration");
    vv_manual_text(&m, RULES);
    vv_server_key k;
    for (size_t i = 0; vv_server_config_key(i, &k); i++)
        manual_key(&m, &k);
    vv_manual_heading(&m, "Signals");
    vv_manual_item(&m, "SIGTERM, SIGINT",
                   "end in order: no more calls, those in flight are finished within "
                   "DRAIN_TIMEOUT, everything is synced",
                   MANUAL_COLUMN);
    vv_manual_item(
        &m, "SIGHUP",
        "read the configuration anew: all of it is checked, then what can change while it runs is taken up",
        MANUAL_COLUMN);
    vv_manual_heading(&m, "Exit status");
    vv_manual_text(&m, "0 ended by a signal with everything on disk, 1 failed at run time, 2 usage or "
                       "configuration.\n");
    vv_manual_heading(&m, "Examples");
    vv_manual_text(&m, "    varved --data /var/lib/varve --listen 127.0.0.1:7700\n"
                       "    varved --config /etc/varve/varved.conf --print-config\n");
    vv_manual_heading(&m, "See also");
    vv_manual_text(&m, "varve(1)\n");
}

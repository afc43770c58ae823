#include "cli/progress.h"

#include <unistd.h>

#include "base/clock.h"
#include "base/compiler.h"

#define SHOW_NS    (100 * VV_NS_PER_MS)
#define BAR_CELLS  24
#define LINE_BYTES 160

void vv_progress_bytes(char *buf, size_t buf_bytes, double bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;
    for (; bytes >= 1024 && unit + 1 < VV_ARRAY_COUNT(units); unit++)
        bytes /= 1024;
    snprintf(buf, buf_bytes, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
}

/* ", 1:02:03 left"; "" if it is not known, or there is none. */
static void put_time(char *buf, size_t buf_bytes, double seconds) {
    unsigned s = seconds < 360000 ? (unsigned)(seconds + 0.5) : 0;
    if (seconds < 0.5 || s == 0)
        buf[0] = '\0';
    else if (s >= 3600)
        snprintf(buf, buf_bytes, ", %u:%02u:%02u left", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(buf, buf_bytes, ", %u:%02u left", s / 60, s % 60);
}

void vv_progress_text(char *buf, size_t buf_bytes, const char *name, uint64_t done_bytes,
                      uint64_t total_bytes, double bytes_per_second) {
    char done[32], total[32], rate[32], left[32], bar[BAR_CELLS + 1];
    vv_progress_bytes(done, sizeof done, (double)done_bytes);
    vv_progress_bytes(total, sizeof total, (double)total_bytes);
    vv_progress_bytes(rate, sizeof rate, bytes_per_second);
    if (total_bytes == 0) {
        snprintf(buf, buf_bytes, "%s: %s, %s/s", name, done, rate);
        return;
    }
    double share = VV_MIN((double)done_bytes / (double)total_bytes, 1.0);
    for (int i = 0; i < BAR_CELLS; i++)
        bar[i] = i < (int)(share * BAR_CELLS) ? '#' : '.';
    bar[BAR_CELLS] = '\0';
    put_time(left, sizeof left,
             bytes_per_second > 0 ? (1 - share) * (double)total_bytes / bytes_per_second : -1);
    snprintf(buf, buf_bytes, "%s: [%s] %3d %%, %s of %s, %s/s%s", name, bar, (int)(share * 100), done, total,
             rate, left);
}

void vv_progress_begin(vv_progress *p, FILE *out, const char *name) {
    *p = (vv_progress){.out = out, .terminal = isatty(fileno(out)), .name = name};
}

bool vv_progress_show(void *arg, uint64_t done_bytes, uint64_t total_bytes) {
    vv_progress *p = arg;
    char text[LINE_BYTES];
    if (!p->terminal && p->plain_ns == 0)
        return true;
    uint64_t now_ns = vv_clock_mono_ns();
    if (p->started_ns == 0) {
        p->started_ns = now_ns;
        p->first_bytes = done_bytes;
        p->shown_ns = p->terminal ? 0 : now_ns;
    }
    if (now_ns - p->shown_ns < (p->terminal ? SHOW_NS : p->plain_ns))
        return true;
    p->shown = p->terminal;
    p->shown_ns = now_ns;
    double seconds = (double)(now_ns - p->started_ns) / (double)VV_NS_PER_S;
    double rate =
        seconds > 0 && done_bytes > p->first_bytes ? (double)(done_bytes - p->first_bytes) / seconds : 0;
    vv_progress_text(text, sizeof text, p->name, done_bytes, total_bytes, rate);
    if (p->terminal)
        fprintf(p->out, "\r\033[K%s", text);
    else
        fprintf(p->out, "%s\n", text);
    fflush(p->out);
    return true;
}

void vv_progress_end(vv_progress *p) {
    if (p->shown) {
        fputs("\r\033[K", p->out);
        fflush(p->out);
    }
    p->shown = false;
}

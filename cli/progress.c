#include "cli/progress.h"

#include <unistd.h>

#include "base/clock.h"
#include "base/compiler.h"

#define SHOW_NS    (100 * VV_NS_PER_MS)
#define BAR_CELLS  24
#define LINE_BYTES 160

/* "3.4 GiB" */
static void put_bytes(char *buf, size_t buf_bytes, double bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;
    for (; bytes >= 1024 && unit + 1 < VV_ARRAY_COUNT(units); unit++)
        bytes /= 1024;
    snprintf(buf, buf_bytes, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
}

void vv_progress_text(char *buf, size_t buf_bytes, const char *name, uint64_t done_bytes,
                      uint64_t total_bytes, double bytes_per_second) {
    char done[32], total[32], rate[32], bar[BAR_CELLS + 1];
    put_bytes(done, sizeof done, (double)done_bytes);
    put_bytes(total, sizeof total, (double)total_bytes);
    put_bytes(rate, sizeof rate, bytes_per_second);
    if (total_bytes == 0) {
        snprintf(buf, buf_bytes, "%s: %s, %s/s", name, done, rate);
        return;
    }
    double share = VV_MIN((double)done_bytes / (double)total_bytes, 1.0);
    for (int i = 0; i < BAR_CELLS; i++)
        bar[i] = i < (int)(share * BAR_CELLS) ? '#' : '.';
    bar[BAR_CELLS] = '\0';
    snprintf(buf, buf_bytes, "%s: [%s] %3d %%, %s of %s, %s/s", name, bar, (int)(share * 100), done, total,
             rate);
}

void vv_progress_begin(vv_progress *p, FILE *out, const char *name) {
    *p = (vv_progress){.out = isatty(fileno(out)) ? out : NULL, .name = name};
}

bool vv_progress_show(void *arg, uint64_t done_bytes, uint64_t total_bytes) {
    vv_progress *p = arg;
    char text[LINE_BYTES];
    if (!p->out)
        return true;
    uint64_t now_ns = vv_clock_mono_ns();
    if (p->started_ns == 0) {
        p->started_ns = now_ns;
        p->first_bytes = done_bytes;
    }
    if (p->shown && now_ns - p->shown_ns < SHOW_NS)
        return true;
    p->shown = true;
    p->shown_ns = now_ns;
    double seconds = (double)(now_ns - p->started_ns) / (double)VV_NS_PER_S;
    double rate =
        seconds > 0 && done_bytes > p->first_bytes ? (double)(done_bytes - p->first_bytes) / seconds : 0;
    vv_progress_text(text, sizeof text, p->name, done_bytes, total_bytes, rate);
    fprintf(p->out, "\r\033[K%s", text);
    fflush(p->out);
    return true;
}

void vv_progress_end(vv_progress *p) {
    if (p->out && p->shown) {
        fputs("\r\033[K", p->out);
        fflush(p->out);
    }
    p->shown = false;
}

/*
 * top.c - the loop around top_frame.c: ask, draw, wait for a key or for time to pass.
 */
#include "cli/top.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "cli/interrupt.h"
#include "cli/output.h"

#define SCREEN_BEGIN "\033[?1049h\033[?25l" /* the other screen, no cursor */
#define SCREEN_END   "\033[?25h\033[?1049l"

/* ---- the terminal ---- */

typedef struct terminal {
    bool on;
    struct termios before;
} terminal;

static void terminal_begin(terminal *t) {
    t->on = isatty(STDOUT_FILENO) && isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &t->before) == 0;
    if (!t->on)
        return;
    struct termios raw = t->before;
    raw.c_lflag &= (tcflag_t) ~(ICANON | ECHO);
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    fputs(SCREEN_BEGIN, stdout);
}

static void terminal_end(terminal *t) {
    if (!t->on)
        return;
    fputs(SCREEN_END, stdout);
    fflush(stdout);
    tcsetattr(STDIN_FILENO, TCSANOW, &t->before);
}

/* Until then, or until somebody wants no more: false. */
static bool wait_until(const terminal *t, uint64_t deadline_ns) {
    if (!t->on) {
        vv_sleep_until(deadline_ns);
        return !vv_interrupted();
    }
    uint64_t now_ns;
    while (!vv_interrupted() && (now_ns = vv_clock_mono_ns()) < deadline_ns) {
        struct pollfd key = {.fd = STDIN_FILENO, .events = POLLIN};
        int left_ms = (int)((deadline_ns - now_ns + VV_NS_PER_MS - 1) / VV_NS_PER_MS);
        char c;
        if (poll(&key, 1, left_ms) > 0 && (read(STDIN_FILENO, &c, 1) <= 0 || c == 'q' || c == 'Q'))
            return false;
    }
    return !vv_interrupted();
}

/* As many lines as there is room for, and no longer than the screen is wide. */
static void draw(const char *text) {
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    fputs("\033[H", stdout);
    for (int row = 0; *text && row + 1 < size.ws_row; row++) {
        int bytes = (int)strcspn(text, "\n");
        fprintf(stdout, "%.*s\033[K\n", VV_MIN(bytes, (int)size.ws_col), text);
        text += bytes + (text[bytes] == '\n');
    }
    fputs("\033[J", stdout);
    fflush(stdout);
}

/* ---- the loop ---- */

/* The caller's to json_decref(); NULL: *err. */
static json_t *ask(vv_client *client, vv_client_error *err) {
    vv_bytes text = {0};
    json_error_t why;
    json_t *object = NULL;
    if (vv_client_get_dashboard(client, &text, err)) {
        /* It may have numbers above 2^63. */
        object = json_loadb((const char *)text.data, text.bytes, JSON_DECODE_INT_AS_REAL, &why);
        if (!object)
            (void)vv_client_fail(err, "INTERNAL", "", "the server's dashboard is not JSON");
    }
    vv_bytes_deinit(&text);
    return object;
}

static void show(const vv_cli_args *args, const terminal *t, const json_t *before, const json_t *now) {
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    if (!out)
        return;
    vv_top_frame(out, args->server, before, now);
    fclose(out);
    if (t->on)
        draw(text);
    else
        fputs(text, stdout);
    free(text);
}

vv_cli_exit vv_cli_top(const vv_cli_args *args, vv_client *client) {
    vv_client_error err = {0};
    terminal t = {.on = false};
    json_t *before = ask(client, &err), *now = NULL;
    bool once = args->once || !isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO);
    vv_interrupt_catch();
    if (before && !once) {
        terminal_begin(&t);
        show(args, &t, before, before);
    }
    while (before && wait_until(&t, vv_clock_mono_ns() + args->interval_us * VV_NS_PER_US)) {
        now = ask(client, &err);
        if (now)
            show(args, &t, before, now);
        json_decref(before);
        before = now;
        if (once)
            break;
    }
    terminal_end(&t);
    json_decref(before);
    if (!err.code[0])
        return VV_CLI_DONE;
    fputs("varve: top: ", stderr);
    vv_output_error(stderr, &err);
    fputc('\n', stderr);
    return VV_CLI_FAILED;
}

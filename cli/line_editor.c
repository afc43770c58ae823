#include "cli/line_editor.h"

#include <fcntl.h>
#include <histedit.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

#include "base/alloc.h"
#include "base/compiler.h"

#define HISTORY_LINES  1000
#define CANDIDATES_MAX 64

struct vv_line_editor {
    /* The terminal as it was, which is how commands run: Ctrl-C ends the process; and as lines are read.
     * libedit shows its prompt some time before the terminal is its own: Ctrl-C and Ctrl-D that are typed
     * then are for the line as well, and wait. */
    struct termios outside, inside;
    EditLine *el;
    History *history;
    char *history_path;
    const char *prompt;
    vv_complete_fn complete;
    void *arg;
};

/* ---- completion ---- */

typedef struct candidates {
    vv_bytes texts; /* each with a zero behind it */
    size_t starts[CANDIDATES_MAX];
    size_t count;
    size_t common_bytes; /* at the beginning of all */
} candidates;

static const char *candidate(const candidates *c, size_t i) {
    return (const char *)c->texts.data + c->starts[i];
}

static void add_candidate(void *to, vv_slice text) {
    candidates *c = to;
    if (c->count == CANDIDATES_MAX)
        return;
    c->starts[c->count++] = c->texts.bytes;
    vv_bytes_append(&c->texts, text.data, text.bytes);
    vv_bytes_push(&c->texts, 0);
    if (c->count == 1)
        c->common_bytes = text.bytes;
    size_t same = 0;
    while (same < c->common_bytes && same < text.bytes &&
           candidate(c, 0)[same] == candidate(c, c->count - 1)[same])
        same++;
    c->common_bytes = same;
}

static void list_candidates(const candidates *c) {
    printf("\n");
    for (size_t i = 0; i < c->count; i++)
        printf("%s%s", i ? "  " : "", candidate(c, i));
    printf("%s\n", c->count == CANDIDATES_MAX ? "  ..." : "");
    fflush(stdout);
}

/* The word is replaced by what all candidates begin with; a space goes behind one that is alone. */
static unsigned char apply(vv_line_editor *e, candidates *c, size_t word_bytes) {
    if (c->count == 0)
        return CC_ERROR;
    vv_bytes text = {0};
    vv_bytes_append(&text, candidate(c, 0), c->common_bytes);
    if (c->count == 1)
        vv_bytes_push(&text, ' ');
    vv_bytes_push(&text, 0);
    bool grew = text.bytes - 1 > word_bytes;
    if (grew) {
        el_deletestr(e->el, (int)word_bytes);
        el_insertstr(e->el, (const char *)text.data);
    } else {
        list_candidates(c);
    }
    vv_bytes_deinit(&text);
    return grew ? CC_REFRESH : CC_REDISPLAY;
}

static unsigned char on_tab(EditLine *el, wint_t key) {
    (void)key;
    vv_line_editor *e;
    candidates c = {0};
    el_get(el, EL_CLIENTDATA, &e);
    const LineInfo *info = el_line(el);
    const char *word = info->cursor;
    while (word > info->buffer && word[-1] != ' ' && word[-1] != '\t')
        word--;
    size_t word_bytes = (size_t)(info->cursor - word);
    vv_slice line = vv_slice_make(info->buffer, (size_t)(info->cursor - info->buffer));
    unsigned char result = CC_ERROR;
    if (e->complete(e->arg, line, vv_slice_make(word, word_bytes), add_candidate, &c))
        result = apply(e, &c, word_bytes);
    vv_bytes_deinit(&c.texts);
    return result;
}

/* ---- lines ---- */

static unsigned char on_interrupt(EditLine *el, wint_t key) {
    (void)key;
    const LineInfo *info = el_line(el);
    el_cursor(el, (int)(info->lastchar - info->cursor));
    el_deletestr(el, (int)(info->lastchar - info->buffer));
    el_insertstr(el, "\n"); /* a line without one would be the end */
    return CC_NEWLINE;
}

static char *prompt_of(EditLine *el) {
    vv_line_editor *e;
    el_get(el, EL_CLIENTDATA, &e);
    return (char *)(uintptr_t)e->prompt;
}

bool vv_line_editor_next(vv_line_editor *e, vv_slice *line_out) {
    int bytes;
    tcsetattr(STDIN_FILENO, TCSANOW, &e->inside);
    const char *line = el_gets(e->el, &bytes);
    tcsetattr(STDIN_FILENO, TCSANOW, &e->outside);
    if (!line || bytes <= 0)
        return false;
    size_t length = (size_t)bytes;
    while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r'))
        length--;
    *line_out = vv_slice_make(line, length);
    HistEvent event;
    if (length > 0)
        history(e->history, &event, H_ENTER, line);
    return true;
}

/* ---- life ---- */

static void load_history(vv_line_editor *e) {
    HistEvent event;
    history(e->history, &event, H_SETSIZE, HISTORY_LINES);
    history(e->history, &event, H_SETUNIQUE, 1);
    if (e->history_path)
        history(e->history, &event, H_LOAD, e->history_path);
}

static void save_history(const vv_line_editor *e) {
    HistEvent event;
    if (!e->history_path)
        return;
    /* It may hold what is secret: the file is made before anything is written. */
    int fd = open(e->history_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    close(fd);
    history(e->history, &event, H_SAVE, e->history_path);
}

vv_line_editor *vv_line_editor_open(const char *prompt, const char *history_path, vv_complete_fn complete,
                                    void *arg) {
    vv_line_editor *e = vv_alloc_zeroed(sizeof *e);
    if (!e)
        return NULL;
    e->prompt = prompt;
    e->complete = complete;
    e->arg = arg;
    e->history_path = history_path ? vv_strdup(history_path) : NULL;
    if (tcgetattr(STDIN_FILENO, &e->outside) != 0) {
        vv_free(e->history_path);
        vv_free(e);
        return NULL;
    }
    e->inside = e->outside;
    e->inside.c_lflag &= (tcflag_t)~ISIG;
    e->inside.c_cc[VEOF] = _POSIX_VDISABLE;
    tcsetattr(STDIN_FILENO, TCSANOW, &e->inside); /* libedit goes by what it finds */
    e->history = history_init();
    e->el = el_init("varve", stdin, stdout, stderr);
    if (!e->history || !e->el) {
        vv_line_editor_close(e);
        return NULL;
    }
    load_history(e);
    el_set(e->el, EL_CLIENTDATA, e);
    el_set(e->el, EL_PROMPT, prompt_of);
    el_set(e->el, EL_EDITOR, "emacs");
    el_set(e->el, EL_HIST, history, e->history);
    /* The narrow el_set() would copy these names and never free them. */
    el_wset(e->el, EL_ADDFN, L"varve-complete", L"complete", on_tab);
    el_set(e->el, EL_BIND, "\t", "varve-complete", NULL);
    el_wset(e->el, EL_ADDFN, L"varve-interrupt", L"leave the line", on_interrupt);
    el_set(e->el, EL_SETTY, "-d", "-isig", NULL);
    el_set(e->el, EL_BIND, "^C", "varve-interrupt", NULL);
    el_set(e->el, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_source(e->el, NULL);
    return e;
}

void vv_line_editor_close(vv_line_editor *e) {
    if (e->history)
        save_history(e);
    if (e->el)
        el_end(e->el);
    if (e->history)
        history_end(e->history);
    tcsetattr(STDIN_FILENO, TCSANOW, &e->outside);
    vv_free(e->history_path);
    vv_free(e);
}

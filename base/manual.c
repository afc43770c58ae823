#include "base/manual.h"

#include <ctype.h>
#include <string.h>

#define WIDTH    80
#define VERBATIM "    "

static bool is_verbatim(const char *line) {
    return strncmp(line, VERBATIM, sizeof VERBATIM - 1) == 0;
}

/* ---- for a terminal ---- */

/* Words of one line, wrapped; the first is written at column `at`, further lines begin at `indent`. */
static void wrap(FILE *out, const char *line, size_t bytes, int at, int indent) {
    const char *end = line + bytes;
    bool first = true;
    while (line < end) {
        const char *space = memchr(line, ' ', (size_t)(end - line));
        int word = (int)((space ? space : end) - line);
        if (!first && at + 1 + word > WIDTH) {
            fprintf(out, "\n%*s", indent, "");
            at = indent;
        } else if (!first) {
            fputc(' ', out);
            at++;
        }
        fwrite(line, 1, (size_t)word, out);
        at += word;
        first = false;
        line += word + 1;
    }
    fputc('\n', out);
}

/* ---- as a page ---- */

/* What roff would take for its own. */
static void put_roff(FILE *out, const char *text, size_t bytes) {
    if (bytes > 0 && (*text == '.' || *text == '\''))
        fputs("\\&", out);
    for (size_t i = 0; i < bytes; i++) {
        switch (text[i]) {
        case '\\': fputs("\\e", out); break;
        case '-': fputs("\\-", out); break;
        case '\'': fputs("\\(aq", out); break;
        case '`': fputs("\\(ga", out); break;
        case '^': fputs("\\(ha", out); break;
        case '~': fputs("\\(ti", out); break;
        case '"': fputs("\\(dq", out); break;
        default: fputc(text[i], out);
        }
    }
    fputc('\n', out);
}

static void put_roff_heading(FILE *out, const char *macro, const char *text, bool upper) {
    fprintf(out, "%s \"", macro);
    for (; *text; text++)
        fputc(upper ? toupper((unsigned char)*text) : *text, out);
    fputs("\"\n", out);
}

/* ---- both ---- */

void vv_manual_begin(const vv_manual *m, const char *name, int section, const char *version,
                     const char *title) {
    if (!m->roff)
        return;
    fputs(".TH ", m->out);
    for (; *name; name++)
        fputc(toupper((unsigned char)*name), m->out);
    fprintf(m->out, " %d \"\" \"Varve %s\" \"Varve\"\n", section, version);
    vv_manual_heading(m, "Name");
    put_roff(m->out, title, strlen(title));
}

void vv_manual_heading(const vv_manual *m, const char *text) {
    if (m->roff)
        put_roff_heading(m->out, ".SH", text, true);
    else
        fprintf(m->out, "\n%s:\n", text);
}

void vv_manual_subheading(const vv_manual *m, const char *text) {
    if (m->roff)
        put_roff_heading(m->out, ".SS", text, false);
    else
        fprintf(m->out, "\n%s\n\n", text);
}

/* `at`: where the first line begins; the others at `indent`. */
static void put_text(const vv_manual *m, const char *text, int at, int indent) {
    bool verbatim = false, plain = false;
    while (*text) {
        size_t bytes = strcspn(text, "\n");
        bool was = verbatim, was_plain = plain;
        verbatim = is_verbatim(text);
        plain = !verbatim && bytes > 0;
        if (m->roff) {
            if (plain && was_plain)
                fputs(".br\n", m->out);
            if (verbatim != was)
                fputs(verbatim ? ".nf\n" : ".fi\n", m->out);
            if (bytes == 0)
                fputs(indent ? ".sp\n" : ".PP\n", m->out);
            else
                put_roff(m->out, text, bytes);
        } else {
            if (bytes > 0)
                fprintf(m->out, "%*s", at, "");
            if (verbatim || bytes == 0)
                fprintf(m->out, "%.*s\n", (int)bytes, text);
            else
                wrap(m->out, text, bytes, indent, indent);
        }
        at = indent;
        text += bytes + (text[bytes] == '\n');
    }
    if (m->roff && verbatim)
        fputs(".fi\n", m->out);
}

void vv_manual_text(const vv_manual *m, const char *text) {
    put_text(m, text, 0, 0);
}

void vv_manual_item(const vv_manual *m, const char *term, const char *meaning, int column) {
    if (m->roff) {
        fputs(".TP\n.B ", m->out);
        put_roff(m->out, term, strlen(term));
        put_text(m, meaning, 0, column);
        return;
    }
    int at = fprintf(m->out, "  %s", term);
    if (at >= column) {
        fputc('\n', m->out);
        at = 0;
    }
    put_text(m, meaning, column - at, column);
}

/*
 * manual.h - help texts from one source, for a terminal and as a manual page (man(7)).
 *
 * A text is lines: each is a paragraph that is wrapped, an empty one parts two, and one that begins with four
 * spaces stands as it is.
 */
#ifndef VV_BASE_MANUAL_H
#define VV_BASE_MANUAL_H

#include <stdbool.h>
#include <stdio.h>

typedef struct vv_manual {
    FILE *out;
    bool roff; /* a manual page, else for a terminal */
} vv_manual;

/* The page's first lines; nothing for a terminal. title: "varve - ...". */
void vv_manual_begin(const vv_manual *m, const char *name, int section, const char *version,
                     const char *title);

/* "Options": ".SH OPTIONS", or "Options:" behind an empty line. */
void vv_manual_heading(const vv_manual *m, const char *text);
void vv_manual_subheading(const vv_manual *m, const char *text);

void vv_manual_text(const vv_manual *m, const char *text);

/* A term, and what it means; on a terminal the meaning begins at `column`. */
void vv_manual_item(const vv_manual *m, const char *term, const char *meaning, int column);

#endif

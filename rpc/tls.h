/*
 * tls.h - the certificate, its key and the CA of the clients, as files that may be renewed while the server
 * runs.
 *
 * New files are taken up on SIGHUP, and by themselves within VV_TLS_CHECK_S seconds: whoever renews
 * certificates need not know of the server. All of them are parsed and compared before any is used; what is
 * wrong is logged, and the old ones go on. Connections keep what they were opened with.
 */
#ifndef VV_RPC_TLS_H
#define VV_RPC_TLS_H

#include "base/log.h"
#include "base/status.h"

#define VV_TLS_CHECK_S 10

typedef struct vv_tls vv_tls;

typedef struct vv_tls_options {
    const char *certificate; /* paths; the chain from the server's own certificate upwards, PEM */
    const char *key;         /* not encrypted */
    const char *client_ca;   /* "": clients are not asked for certificates */
    bool client_required;    /* a client without a certificate can't connect */
    const vv_logger *log;    /* borrowed until destroy */
} vv_tls_options;

/* What is in the files; never NULL. */
typedef struct vv_tls_pem {
    const char *certificate;
    const char *key;
    /* The clients' CA; without one, the server's own certificate, which stands for nothing then: the C core
     * does not bear having none. */
    const char *roots;
} vv_tls_pem;

/*
 * Read and check the files.
 *
 * INVALID_ARGUMENT   err says which file and what is wrong with it.
 * others             it cannot be read.
 */
vv_status vv_tls_create(const vv_tls_options *options, vv_tls **out, vv_error *err) VV_CHECKED;
/* No listener is left. NULL is fine. */
void vv_tls_destroy(vv_tls *tls);

/* Of the start, but for the paths, which are those of now. */
const vv_tls_options *vv_tls_options_of(const vv_tls *tls);

/*
 * Read and check the files at the paths of other options; what else these say is for the start alone. They
 * are in use, and looked at from then on, when they are taken. One at a time.
 */
typedef struct vv_tls_next vv_tls_next;
vv_status vv_tls_prepare(vv_tls *tls, const vv_tls_options *options, vv_tls_next **out,
                         vv_error *err) VV_CHECKED;
void vv_tls_take(vv_tls *tls, vv_tls_next *next);
/* NULL is fine. */
void vv_tls_drop(vv_tls_next *next);

/* Read the files again; on failure the old ones stay. Any thread. */
vv_status vv_tls_reload(vv_tls *tls, vv_error *err) VV_CHECKED;

/* The same if one of them has changed, once for each change; logs what comes of it. Any thread. */
void vv_tls_reload_if_changed(vv_tls *tls);

/* If there is something newer than *generation (0: nothing yet): call fn with it, which must not keep it, and
 * set *generation. False: there is not. Any thread. */
bool vv_tls_if_newer(vv_tls *tls, uint64_t *generation, void (*fn)(void *arg, const vv_tls_pem *pem),
                     void *arg);

#endif

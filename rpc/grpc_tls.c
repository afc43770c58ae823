/*
 * grpc_tls.c - server credentials of the C core from what tls.h has read.
 *
 * The C core asks for the certificate at each handshake and is told "unchanged" unless there is a newer one.
 * Each listener asks for itself, and remembers what it has.
 */
#include <grpc/grpc_security.h>

#include "base/alloc.h"
#include "rpc/grpc_impl.h"
#include "rpc/tls.h"

struct vv_grpc_listener {
    vv_grpc_listener *next;
    vv_tls *tls;
    uint64_t generation; /* of what the C core has; it asks under a lock of the listener's own */
};

static void make_config(void *arg, const vv_tls_pem *pem) {
    grpc_ssl_pem_key_cert_pair pair = {.private_key = pem->key, .cert_chain = pem->certificate};
    *(grpc_ssl_server_certificate_config **)arg =
        grpc_ssl_server_certificate_config_create(pem->roots, &pair, 1);
}

static grpc_ssl_certificate_config_reload_status fetch(void *arg,
                                                       grpc_ssl_server_certificate_config **config) {
    vv_grpc_listener *l = arg;
    if (vv_tls_if_newer(l->tls, &l->generation, make_config, config))
        return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
}

grpc_server_credentials *vv_grpc_tls_credentials(vv_grpc *t) {
    vv_grpc_listener *l = vv_alloc_zeroed(sizeof *l);
    if (!l)
        return NULL;
    l->tls = t->options.tls;
    l->next = t->tls_listeners;
    t->tls_listeners = l;
    const vv_tls_options *options = vv_tls_options_of(l->tls);
    grpc_ssl_client_certificate_request_type request =
        !*options->client_ca       ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
        : options->client_required ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                   : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY;
    return grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(request, fetch, l));
}

void vv_grpc_tls_release(vv_grpc *t) {
    while (t->tls_listeners) {
        vv_grpc_listener *l = t->tls_listeners;
        t->tls_listeners = l->next;
        vv_free(l);
    }
}

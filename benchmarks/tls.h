/* Reading and writing, over TLS where the connection has it. Without WITH_TLS the program knows none. */
#pragma once
#include "stream.h"

#ifdef WITH_TLS
#include <openssl/ssl.h>
static SSL_CTX *tls_context;

static void use_tls(void) {
    static const unsigned char http1[] = "\x08http/1.1";
    tls_context = SSL_CTX_new(TLS_client_method());
    if (!tls_context) die("OpenSSL");
    SSL_CTX_set_mode(tls_context, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(tls_context, SSL_SESS_CACHE_OFF); /* every handshake is a full one */
    SSL_CTX_set_alpn_protos(tls_context, http1, sizeof http1 - 1);
}

static bool with_tls(void) { return tls_context; }

static void begin_tls(Conn *c) {
    c->tls = SSL_new(tls_context);
    SSL_set_fd(c->tls, c->fd);
    SSL_set_connect_state(c->tls);
}

static void end_tls(Conn *c) {
    SSL_free(c->tls);
    c->tls = NULL;
}

/* 1: done; -1: the other side has to say more first; 0: failed. */
static int handshake(Conn *c) {
    int n = SSL_do_handshake(c->tls);
    return n == 1 ? 1 : SSL_get_error(c->tls, n) == SSL_ERROR_WANT_READ ? -1 : 0;
}
#else
static void use_tls(void) {
    fprintf(stderr, "built without OpenSSL\n");
    exit(1);
}
static bool with_tls(void) { return false; }
static void begin_tls(Conn *c) { (void)c; }
static void end_tls(Conn *c) { (void)c; }
static int handshake(Conn *c) { return (void)c, 0; }
#endif

/* Read what is there. 0: the stream has ended; -1: nothing now. */
static long receive(Conn *c, char *to, int room) {
#ifdef WITH_TLS
    if (c->tls) {
        int n = SSL_read(c->tls, to, room);
        return n > 0 ? n : SSL_get_error(c->tls, n) == SSL_ERROR_WANT_READ ? -1 : 0;
    }
#endif
    long n = read(c->fd, to, room);
    return n >= 0 ? n : errno == EAGAIN ? -1 : 0;
}

/* Write all of it; a request finds room in the socket. */
static bool transmit(Conn *c, const char *from, int n) {
#ifdef WITH_TLS
    if (c->tls) return SSL_write(c->tls, from, n) == n;
#endif
    return write(c->fd, from, n) == n;
}

/* One event stream as the load client sees it, and the HTTP framing around its body. */
#pragma once
#include "common.h"

enum { TAIL = 2048, PLACE = 48 };

typedef enum { CONNECTING, HANDSHAKE, HEAD, SIZE, DATA, DATA_END, PLAIN, ENDED } State;
typedef struct {
    int fd;
    State state;
    bool up, closed;
    void *tls;                    /* the SSL object, or NULL */
    long began;                   /* when it was due to connect */
    size_t left;                  /* bytes of the present HTTP chunk still to come */
    long next_seq;                /* one more than the highest sequence seen */
    uint64_t window;              /* bit k: next_seq - 1 - k has arrived */
    long received;                /* different messages */
    char id[PLACE], epoch[PLACE]; /* where to resume, as the stream named it */
    int tail_len;                 /* body bytes after the last message: text that may go on in the next read */
    char tail[TAIL];
} Conn;

/* Gather the response head. Returns how many of the n bytes belonged to it. */
static long read_head(Conn *c, const char *in, long n) {
    long before = c->tail_len, room = TAIL - 1 - before, take = n < room ? n : room;
    memcpy(c->tail + before, in, take);
    c->tail[before + take] = 0;
    char *end = strstr(c->tail, "\r\n\r\n");
    if (!end) {
        c->tail_len += take;
        if (take == room) c->state = ENDED; /* no head is that long */
        return take;
    }
    end[2] = 0;
    c->state = strncmp(c->tail, "HTTP/1.1 200", 12) ? ENDED
               : strcasestr(c->tail, "transfer-encoding: chunked") ? SIZE : PLAIN;
    c->tail_len = 0;
    return end + 4 - c->tail - before;
}

/* Take the HTTP framing out of [in, end), moving the body together at the front. Returns the body's end. */
static char *body_of(Conn *c, char *in, char *end) {
    char *out = in;
    while (in < end) {
        long n = end - in;
        switch (c->state) {
        case HEAD:
            in += read_head(c, in, n);
            c->left = 0;
            break;
        case SIZE: {
            char ch = *in++;
            if (ch == '\n') c->state = c->left ? DATA : ENDED;
            else if (ch >= '0' && ch <= '9') c->left = c->left * 16 + (ch - '0');
            else if ((ch | 32) >= 'a' && (ch | 32) <= 'f') c->left = c->left * 16 + ((ch | 32) - 'a' + 10);
            break;
        }
        case DATA:
            if (n > (long)c->left) n = c->left;
            if (out != in) memmove(out, in, n);
            out += n;
            in += n;
            if (!(c->left -= n)) c->state = DATA_END;
            break;
        case DATA_END:
            if (*in++ == '\n') c->state = SIZE;
            break;
        case PLAIN:
            if (out != in) memmove(out, in, n);
            out += n;
            in = end;
            break;
        default: /* ENDED: nothing more is expected */
            in = end;
        }
    }
    return out;
}

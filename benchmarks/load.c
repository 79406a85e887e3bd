/* The load client: opens many event streams, reads them all, checks every sequence number.

     load port=8085 path='/sse?user_id=%d' conns=1000 users=1 silent=0 mark=connected
          pending=64 quiet_ms=2000 drain=10 seconds=60

   Connection i asks for user i % users + 1. When each has shown `mark` (or was refused) the line
   "READY <connected> <seconds>" goes to stderr. The first `silent` connections never read after that.
   Then it counts until a line "end N" has come on standard input and N messages have arrived, or nothing has
   come for quiet_ms, or `drain` seconds have passed; at the latest after `seconds`, or when standard input closes
   without that line.
   One JSON object goes to stdout.

   A message is known by the text #<sequence>T<CLOCK_MONOTONIC ns>T in it; sequences count from 0 for each user.
   The mark begins with a character that is nowhere else in the stream, so one memchr() per message finds it. */
#include "common.h"
#include "histogram.h"
#include <sys/epoll.h>

enum { TAIL = 2048, READ_SIZE = 256 * 1024, EVENTS = 1024, STDIN = -1 };
enum { PORTS_PER_ADDRESS = 20000 }; /* below the usual 28,231 ephemeral ports of one source address */
#define WATCH (EPOLLIN | EPOLLRDHUP | EPOLLET)
enum { GAP_EVENT = 40 };            /* the shortest `event: gap` with its data line is longer than this */

typedef enum { CONNECTING, HEAD, SIZE, DATA, DATA_END, PLAIN, ENDED } State;
typedef struct {
    int fd;
    State state;
    bool up, closed;
    size_t left;                  /* bytes of the present HTTP chunk still to come */
    long next_seq;                /* one more than the highest sequence seen */
    uint64_t window;              /* bit k: next_seq - 1 - k has arrived */
    long received;                /* different messages */
    int tail_len;                 /* body bytes after the last message: text that may go on in the next read */
    char tail[TAIL];
} Conn;

static Conn *conns;
static Histogram latency;
static long n_conns, silent, users, port, pending;
static long up, opened, closed, refused;
static long received, holes, duplicates, reordered, gaps, gap_dropped, gap_unknown;
static long first_event, last_event, reads, bytes, idle_bytes, ready_at;
static double cpu_first;
static int epoll_fd;
static const char *path_format, *ready_mark;
static char area[TAIL + READ_SIZE]; /* a connection's tail, then what was read now */

/* Account for one message. A sequence older than the window of 64 counts as a duplicate. */
static void message(Conn *c, long seq, long stamp, long t) {
    long ahead = seq - c->next_seq;
    if (ahead >= 0) {
        holes += ahead;
        c->window = ahead < 63 ? c->window << (ahead + 1) | 1 : 1;
        c->next_seq = seq + 1;
    } else {
        long k = -ahead - 1;
        if (k >= 64 || c->window >> k & 1) {
            duplicates++;
            return;
        }
        c->window |= 1ull << k;
        reordered++;
        holes--;
    }
    c->received++;
    received++;
    record(&latency, t > stamp ? (t - stamp) / 1000 : 0);
    if (!first_event) {
        first_event = t;
        cpu_first = cpu_seconds();
    }
    last_event = t;
}

/* Add up what `event: gap` says in this text. Returns whether there was one. */
static bool find_gaps(const char *p, const char *end) {
    bool found = false;
    while ((p = memmem(p, end - p, "event: gap", 10))) {
        found = true;
        gaps++;
        p += 10;
        const char *d = memmem(p, end - p, "\"dropped\":", 10);
        if (!d) break;
        for (d += 10; d < end && *d == ' '; d++) {}
        if (d < end && *d >= '0' && *d <= '9') gap_dropped += atol(d);
        else gap_unknown++;
        p = d;
    }
    return found;
}

/* Read a mark at p. Returns its end; NULL if it is no mark; p itself if the text ends before the mark does. */
static const char *read_mark(const char *p, const char *end, long *seq, long *stamp) {
    const char *q = p + 1;
    for (*seq = 0; q < end && *q >= '0' && *q <= '9'; q++) *seq = *seq * 10 + (*q - '0');
    if (q == end) return p;
    if (*q != 'T' || q == p + 1) return NULL;
    for (*stamp = 0, q++; q < end && *q >= '0' && *q <= '9'; q++) *stamp = *stamp * 10 + (*q - '0');
    if (q == end) return p;
    return *q == 'T' ? q + 1 : NULL;
}

/* Count the messages in the body text [p, end); keep what follows the last one for the next time.
   Text between two messages is searched for gaps only if it is long enough to hold one: `shortest` is the
   shortest such text seen that held none. */
static void scan(Conn *c, const char *p, const char *end, long t) {
    static long shortest = 0;
    const char *start = p, *mark;
    if (!c->up && memmem(p, end - p, ready_mark, strlen(ready_mark))) {
        c->up = true;
        up++;
    }
    while (p < end && (mark = memchr(p, '#', end - p))) {
        long seq, stamp;
        const char *after = read_mark(mark, end, &seq, &stamp);
        if (after == mark) break;
        if (!after) {
            p = mark + 1;
            continue;
        }
        long between = mark - start;
        bool gap = (!shortest || between > shortest + GAP_EVENT) && find_gaps(start, mark);
        if (!gap && c->received && between > 0 && (!shortest || between < shortest)) shortest = between;
        message(c, seq, stamp, t);
        start = p = after;
    }
    if (end - start > TAIL) { /* heartbeats or padding: keep the last, unfinished event only */
        const char *cut = end - 64;
        for (const char *q = end - 2; q >= end - TAIL; q--)
            if (q[0] == '\n' && q[1] == '\n') {
                cut = q + 2;
                break;
            }
        find_gaps(start, cut);
        start = cut;
    }
    c->tail_len = end - start;
    memcpy(c->tail, start, c->tail_len);
}

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

static void end_connection(Conn *c) {
    c->closed = true;
    if (c->up) closed++;
    else refused++;
    close(c->fd);
}

/* One read. Returns whether there may be more to read. */
static bool read_once(Conn *c) {
    char *fresh = area + TAIL;
    long n = read(c->fd, fresh, READ_SIZE);
    if (n < 0 && errno == EAGAIN) return false;
    if (n <= 0) {
        end_connection(c);
        return false;
    }
    long t = now_ns();
    reads++;
    bytes += n;
    if (ready_at) idle_bytes += n;
    char *end = body_of(c, fresh, fresh + n);
    if (end > fresh) {
        char *start = fresh - c->tail_len;
        memcpy(start, c->tail, c->tail_len);
        bool was_up = c->up;
        scan(c, start, end, t);
        if (!was_up && c->up && c - conns < silent) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
    }
    if (c->state == ENDED) end_connection(c);
    return n == READ_SIZE;
}

/* Events are edge-triggered, which saves the kernel a second look at each socket: so read until a read comes
   back short, and to the end if the other side has closed. */
static void on_readable(Conn *c, bool hung_up) {
    while (read_once(c) || (hung_up && !c->closed)) {}
}

static void send_request(Conn *c) {
    char path[512], request[1024];
    snprintf(path, sizeof path, path_format, (int)((c - conns) % users + 1));
    int n = snprintf(request, sizeof request,
                     "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%ld\r\nAccept: text/event-stream\r\n\r\n", path, port);
    c->state = HEAD;
    if (write(c->fd, request, n) != n) end_connection(c);
}

static void open_connection(long i) {
    Conn *c = &conns[i];
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket (is the limit of open files high enough?)");
    struct sockaddr_in from = loopback(0), to = loopback(port);
    /* Another source address for every 20,000 connections; the port is chosen at connect(). */
    from.sin_addr.s_addr = htonl(0x7f000001 + (((i / PORTS_PER_ADDRESS) + 1) << 8)); /* 127.0.x.1 */
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(c->fd, (void *)&from, sizeof from)) die("bind");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (i < silent) {
        /* A client across a network: small segments and a small window, so the sender's buffer fills soon
           (the kernel then takes 85 KB for it; over plain loopback it took 4.3 MB). */
        int window = 4096, segment = 1000;
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &window, sizeof window);
        setsockopt(c->fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
    }
    int failed = connect(c->fd, (void *)&to, sizeof to);
    if (failed && errno != EINPROGRESS) {
        end_connection(c);
        return;
    }
    struct epoll_event e = {.events = failed ? EPOLLOUT : WATCH, .data.u32 = i};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
    if (!failed) send_request(c);
}

static void on_event(struct epoll_event *e) {
    Conn *c = &conns[e->data.u32];
    if (c->closed) return;
    if (c->state != CONNECTING) {
        on_readable(c, e->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
        return;
    }
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        end_connection(c);
        return;
    }
    struct epoll_event in = {.events = WATCH, .data.u32 = e->data.u32};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &in);
    send_request(c);
}

static void print_result(double connect_s) {
    long least = -1, most = 0, readers = 0;
    for (long i = silent; i < n_conns; i++) {
        Conn *c = &conns[i];
        if (!c->up) continue;
        find_gaps(c->tail, c->tail + c->tail_len);
        readers++;
        if (least < 0 || c->received < least) least = c->received;
        if (c->received > most) most = c->received;
    }
    double span = (last_event - first_event) / 1e9, cpu = cpu_seconds() - cpu_first;
    printf("{\"conns\": %ld, \"connected\": %ld, \"readers\": %ld, \"refused\": %ld, \"closed\": %ld, "
           "\"connect_s\": %.4f, \"connects_per_s\": %.0f, ",
           n_conns, up, readers, refused, closed, connect_s, connect_s > 0 ? up / connect_s : 0);
    printf("\"received\": %ld, \"holes\": %ld, \"duplicates\": %ld, \"reordered\": %ld, \"gap_events\": %ld, "
           "\"gap_dropped\": %ld, \"gap_unknown\": %ld, \"per_conn_min\": %ld, \"per_conn_max\": %ld, ",
           received, holes, duplicates, reordered, gaps, gap_dropped, gap_unknown, least < 0 ? 0 : least, most);
    printf("\"span_s\": %.4f, \"per_s\": %.0f, \"p50_us\": %lu, \"p99_us\": %lu, \"p999_us\": %lu, \"max_us\": %lu, ",
           span, span > 0 ? received / span : 0, quantile(&latency, .5), quantile(&latency, .99),
           quantile(&latency, .999), latency.max);
    printf("\"bytes\": %ld, \"bytes_after_ready\": %ld, \"reads\": %ld, \"cpu_s\": %.3f, \"core_share\": %.3f}\n", bytes,
           idle_bytes, reads, received ? cpu : 0, received && span > 0 ? cpu / span : 0);
}

int main(int argc, char **argv) {
    port = arg_long(argc, argv, "port", "8085");
    n_conns = arg_long(argc, argv, "conns", "1");
    users = arg_long(argc, argv, "users", "1");
    silent = arg_long(argc, argv, "silent", "0");
    pending = arg_long(argc, argv, "pending", "64");
    path_format = arg(argc, argv, "path", "/sse?user_id=%d");
    ready_mark = arg(argc, argv, "mark", "connected");
    long quiet = arg_long(argc, argv, "quiet_ms", "2000") * 1000000L;
    long drain = arg_double(argc, argv, "drain", "10") * SECOND;
    long limit = arg_double(argc, argv, "seconds", "60") * SECOND;
    raise_file_limit();
    conns = calloc(n_conns, sizeof *conns);
    epoll_fd = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = (uint32_t)STDIN}, events[EVENTS];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &e); /* fails for a plain file: then `seconds` is the only end */

    long started = now_ns(), ended = 0, wanted = -1;
    for (;;) {
        while (opened < n_conns && opened - up - refused < pending) open_connection(opened++);
        long t = now_ns();
        if (!ready_at && up + refused == n_conns) {
            ready_at = t;
            fprintf(stderr, "READY %ld %.4f\n", up, (t - started) / 1e9);
        }
        if (t - (ready_at ? ready_at : started) > limit) break;
        if (wanted >= 0 && received >= wanted) break;
        if (ended && (t - ended > drain || (t - ended > quiet && t - last_event > quiet))) break;
        int n = epoll_wait(epoll_fd, events, EVENTS, 20);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u32 != (uint32_t)STDIN) {
                on_event(&events[i]);
                continue;
            }
            char line[64] = "";
            if (read(0, line, sizeof line - 1) <= 0) {
                if (!ended) goto done; /* the one who started us is gone */
                epoll_ctl(epoll_fd, EPOLL_CTL_DEL, 0, NULL);
            }
            if (sscanf(line, "end %ld", &wanted) == 1) ended = now_ns();
        }
    }
done:
    print_result((ready_at ? ready_at - started : now_ns() - started) / 1e9);
    return 0;
}

/* The load client: opens many event streams, reads them all, checks every sequence number.

     load port=8085 path='/sse?user_id={user}{topics}' header= tokens= tls=0 conns=1000 users=1 topics=0 shared=0 silent=0
          mark=connected pending=64 quiet_ms=2000 drain=10 seconds=60 id_mark= epoch_mark= resume_path=

   Connection i asks for user i % users + 1, with line i of the file `tokens` as its token; `header` is a further
   line of the request. User u follows the topics u, u + users, u + 2 users …, or (shared) all follow 1, 2, 3 …, so
   many as `topics` says. When each has shown `mark` (or was refused) the line
   "READY <connected> <seconds>" goes to stderr. The first `silent` connections never read after that.
   Then it counts until a line "end N" has come on standard input and N messages have arrived, or nothing has
   come for quiet_ms, or `drain` seconds have passed; at the latest after `seconds`, or when standard input closes
   without that line.
   Before that, the line "cut" resets all connections, answered by CUT. "return S" opens them again, spread over S
   seconds whether or not the service keeps up; "BACK <connected> <seconds>" follows when all are live. They ask for
   `resume_path` if there is one, and else send Last-Event-ID, if the text after `id_mark` has told one.
   Before that, too, the line "gone" waits until the other side has closed every connection. "GONE <closed before>
   <CLOCK_MONOTONIC ns of the last close>" follows.
   One JSON object goes to stdout.

   A message is known by the text #<sequence>T<CLOCK_MONOTONIC ns>T in it; sequences count from 0 for each user.
   The mark begins with a character that is rare in the rest of the stream, so one memchr() per message finds it. */
#include "count.h"
#include "request.h"
#include "tls.h"
#include <sys/epoll.h>

enum { READ_SIZE = 256 * 1024, EVENTS = 1024, STDIN = -1 };
enum { PORTS_PER_ADDRESS = 20000 }; /* below the usual 28,231 ephemeral ports of one source address */
#define WATCH (EPOLLIN | EPOLLRDHUP | EPOLLET)

static Conn *conns;
static long n_conns, silent, users, topics, shared, port, pending;
static long opened, closed, refused, resumed, closed_at;
static long reads, bytes, idle_bytes, ready_at;
static enum { FIRST, AWAY, BACK } phase;
static long back_at, back_ns, live_at; /* when they began to return, over how long, when the last was live */
static double connect_s;
static Histogram to_live;              /* from the moment a return was due until its stream showed the mark */
static int epoll_fd;
static const char *path_template, *header_template, *resume_path;
static char **tokens;
static char area[TAIL + READ_SIZE]; /* a connection's tail, then what was read now */

static void end_connection(Conn *c) {
    c->closed = true;
    if (c->up) closed++;
    else refused++;
    end_tls(c);
    close(c->fd);
    closed_at = now_ns();
}

/* One read. Returns whether there may be more to read. */
static bool read_once(Conn *c) {
    char *fresh = area + TAIL;
    long n = receive(c, fresh, READ_SIZE);
    if (n < 0) return false;
    if (n == 0) {
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
        if (!was_up && c->up && phase == BACK) record(&to_live, (t - c->began) / 1000);
        if (!was_up && c->up && c - conns < silent) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
    }
    if (c->state == ENDED) end_connection(c);
    return !c->closed && (c->tls || n == READ_SIZE); /* TLS gives one record at a time */
}

/* Events are edge-triggered, which saves the kernel a second look at each socket: so read until a read comes
   back short, and to the end if the other side has closed. */
static void on_readable(Conn *c, bool hung_up) {
    while (read_once(c) || (hung_up && !c->closed)) {}
}

static void send_request(Conn *c) {
    char user[24], followed[4096], path[8192], header[4096] = "", last_id[128] = "", request[16384];
    long number = (c - conns) % users + 1;
    const char *token = tokens ? tokens[c - conns] : "";
    snprintf(user, sizeof user, "%ld", number);
    topics_of(followed, sizeof followed, shared ? 1 : number, topics, shared ? 1 : users);
    bool resumes = phase == BACK && c->id[0];
    resumed += resumes;
    fill(path, sizeof path, resumes && *resume_path ? resume_path : path_template, c, user, token, followed);
    if (*header_template) {
        fill(header, sizeof header - 2, header_template, c, user, token, followed);
        strcat(header, "\r\n");
    }
    if (resumes && !*resume_path) snprintf(last_id, sizeof last_id, "Last-Event-ID: %s\r\n", c->id);
    int n = snprintf(request, sizeof request,
                     "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%ld\r\nAccept: text/event-stream\r\n%s%s\r\n", path, port,
                     header, last_id);
    c->state = HEAD;
    if (!transmit(c, request, n)) end_connection(c);
}

static void shake_hands(Conn *c) {
    int done = handshake(c);
    if (done > 0) send_request(c);
    else if (!done) end_connection(c);
}

static void on_connected(Conn *c) {
    if (!with_tls()) {
        send_request(c);
        return;
    }
    c->state = HANDSHAKE;
    begin_tls(c);
    shake_hands(c);
}

static void open_connection(long i, long due) {
    Conn *c = &conns[i];
    int one = 1;
    c->state = CONNECTING;
    c->closed = false;
    c->began = due;
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
    if (!failed) on_connected(c);
}

static void on_event(struct epoll_event *e) {
    Conn *c = &conns[e->data.u32];
    if (c->closed) return;
    if (c->state == HANDSHAKE) {
        shake_hands(c);
        return;
    }
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
    on_connected(c);
}

/* Reset every connection, as when a proxy is restarted. What each has received is kept. */
static void cut(void) {
    struct linger now = {1, 0};
    for (Conn *c = conns; c < conns + n_conns; c++) {
        if (!c->closed) {
            setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
            end_tls(c);
            close(c->fd);
        }
        c->closed = true;
        c->up = false;
        c->left = c->tail_len = 0;
    }
    phase = AWAY;
    fprintf(stderr, "CUT\n");
}

/* Open what may be opened now. */
static void open_some(void) {
    while (phase == FIRST && opened < n_conns && opened - up - refused < pending) open_connection(opened++, now_ns());
    while (phase == BACK && opened < n_conns) {
        long due = back_at + back_ns * opened / n_conns;
        if (now_ns() < due) break;
        open_connection(opened++, due);
    }
    if (phase == AWAY || up + refused < n_conns) return;
    long t = now_ns();
    if (phase == FIRST && !ready_at) {
        ready_at = t;
        fprintf(stderr, "READY %ld %.4f\n", up, connect_s = (t - conns[0].began) / 1e9);
    } else if (phase == BACK && !live_at) {
        live_at = t;
        fprintf(stderr, "BACK %ld %.4f\n", up, (t - back_at) / 1e9);
    }
}

static void print_result(void) {
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
    if (phase == BACK)
        printf("\"resumed\": %ld, \"live_s\": %.4f, \"last_message_s\": %.4f, \"live_p50_us\": %lu, \"live_p99_us\": %lu, ",
               resumed, live_at ? (live_at - back_at) / 1e9 : 0, last_event > back_at ? (last_event - back_at) / 1e9 : 0,
               quantile(&to_live, .5), quantile(&to_live, .99));
    printf("\"bytes\": %ld, \"bytes_after_ready\": %ld, \"reads\": %ld, \"cpu_s\": %.3f, \"core_share\": %.3f}\n", bytes,
           idle_bytes, reads, received ? cpu : 0, received && span > 0 ? cpu / span : 0);
}

int main(int argc, char **argv) {
    port = arg_long(argc, argv, "port", "8085");
    n_conns = arg_long(argc, argv, "conns", "1");
    users = arg_long(argc, argv, "users", "1");
    topics = arg_long(argc, argv, "topics", "0");
    shared = arg_long(argc, argv, "shared", "0");
    silent = arg_long(argc, argv, "silent", "0");
    pending = arg_long(argc, argv, "pending", "64");
    path_template = arg(argc, argv, "path", "/sse?user_id={user}{topics}");
    header_template = arg(argc, argv, "header", "");
    resume_path = arg(argc, argv, "resume_path", "");
    ready_mark = arg(argc, argv, "mark", "connected");
    id_mark = arg(argc, argv, "id_mark", "");
    epoch_mark = arg(argc, argv, "epoch_mark", "");
    if (*arg(argc, argv, "tokens", "")) tokens = lines_of(arg(argc, argv, "tokens", ""), n_conns);
    if (arg_long(argc, argv, "tls", "0")) use_tls();
    long quiet = arg_long(argc, argv, "quiet_ms", "2000") * 1000000L;
    long drain = arg_double(argc, argv, "drain", "10") * SECOND;
    long limit = arg_double(argc, argv, "seconds", "60") * SECOND;
    raise_file_limit();
    conns = calloc(n_conns, sizeof *conns);
    epoll_fd = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = (uint32_t)STDIN}, events[EVENTS];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &e); /* fails for a plain file: then `seconds` is the only end */

    long started = now_ns(), ended = 0, wanted = -1, before_gone = -1;
    for (;;) {
        open_some();
        long t = now_ns();
        if (t - (ready_at ? ready_at : started) > limit) break;
        if (wanted >= 0 && received >= wanted) break;
        if (before_gone >= 0 && closed + refused == n_conns) {
            fprintf(stderr, "GONE %ld %ld\n", before_gone, closed_at);
            before_gone = -1;
        }
        if (ended && (t - ended > drain || (t - ended > quiet && t - last_event > quiet))) break;
        int n = epoll_wait(epoll_fd, events, EVENTS, phase == BACK && opened < n_conns ? 1 : 20);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u32 != (uint32_t)STDIN) {
                on_event(&events[i]);
                continue;
            }
            char line[64] = "";
            double seconds;
            if (read(0, line, sizeof line - 1) <= 0) {
                if (!ended) goto done; /* the one who started us is gone */
                epoll_ctl(epoll_fd, EPOLL_CTL_DEL, 0, NULL);
            }
            if (sscanf(line, "end %ld", &wanted) == 1) ended = now_ns();
            if (!strncmp(line, "cut", 3)) cut();
            if (!strncmp(line, "gone", 4)) before_gone = closed;
            if (sscanf(line, "return %lf", &seconds) == 1) {
                phase = BACK;
                up = opened = refused = 0;
                back_at = now_ns();
                back_ns = seconds * SECOND;
            }
        }
    }
done:
    print_result();
    return 0;
}

/* The publisher: sends numbered, time-stamped notifications at a rate, or as fast as they are taken.

     publish port=6379 to=redis channel=notifications rate=2000 count=20000 users=1 pad=0 seconds=30 window=1000

   Message i is for user i % users + 1 and carries #<i / users>T<ns>T. With a rate the stamp is the moment at
   which the message was DUE, so that time spent waiting in this program counts as latency too; with rate=0 it is
   the moment of writing. to=redis: RESP PUBLISH. to=nchan: POST /pub?user_id=N, pipelined on one connection.
   At most `window` messages are unanswered at a time. Sends nothing after
   `seconds`. JSON on stdout. */
#include "common.h"
#include <poll.h>

#define ANSWER_LIMIT (10 * SECOND)
enum { OUT = 1 << 20, BIGGEST_PAD = 60000, IN = 1 << 16 };
static char out[OUT], json[BIGGEST_PAD + 512], pad[BIGGEST_PAD + 1], in[IN];

/* Append one message to the output. Returns its length in bytes. */
static int put(char *to, size_t room, bool nchan, const char *channel, long user, long seq, long stamp) {
    int n = snprintf(json, sizeof json,
                     "{\"user_id\":%ld,\"message\":\"#%ldT%ldT%s\",\"created_at\":\"2024-01-01T12:00:00Z\"}", user, seq,
                     stamp, pad);
    if (nchan)
        return snprintf(to, room, "POST /pub?user_id=%ld HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s",
                        user, n, json);
    return snprintf(to, room, "*3\r\n$7\r\nPUBLISH\r\n$%zu\r\n%s\r\n$%d\r\n%s\r\n", strlen(channel), channel, n, json);
}

/* Count answers in what was read. Redis answers ":<subscribers>"; those with none are counted as unheard.
   nginx answers with a head and a small body; a head ends the answer before it well enough for counting. */
static long answers(const char *p, long n, bool nchan, long *unheard, long *refused) {
    static char last[2]; /* the two bytes before p, for a pattern cut by a read */
    long count = 0;
    for (long i = 0; i < n; i++) {
        if (nchan) { /* "HTTP/1.1 2": the only capital P before a slash */
            if (last[1] == 'P' && p[i] == '/') count++;
        } else if (p[i] == '\n') {
            count++;
        } else if (last[1] == ':' && p[i] == '0') {
            (*unheard)++;
        } else if (p[i] == '-' && (last[1] == '\n' || !last[1])) {
            (*refused)++;
        }
        last[1] = p[i];
    }
    return count;
}

int main(int argc, char **argv) {
    bool nchan = !strcmp(arg(argc, argv, "to", "redis"), "nchan");
    const char *channel = arg(argc, argv, "channel", "notifications");
    double rate = arg_double(argc, argv, "rate", "0");
    long wanted = arg_long(argc, argv, "count", "1"), count = wanted, users = arg_long(argc, argv, "users", "1");
    long window = arg_long(argc, argv, "window", "1000"), padding = arg_long(argc, argv, "pad", "0");
    long limit = arg_double(argc, argv, "seconds", "60") * SECOND;
    memset(pad, 'x', padding < BIGGEST_PAD ? padding : BIGGEST_PAD);
    prctl(PR_SET_TIMERSLACK, 1000UL); /* wake up on time: 1 us instead of 50 */

    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in to = loopback(arg_long(argc, argv, "port", "6379"));
    if (connect(fd, (void *)&to, sizeof to)) die("connect to the place of publishing");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);

    long started = now_ns(), t = started, built = 0, answered = 0, unheard = 0, refused = 0, behind = 0;
    size_t have = 0, sent = 0, size = padding + 512;
    while (answered < count) {
        t = now_ns();
        if (t - started > limit && count > built) count = built; /* late: send no more, wait for answers */
        if (t - started > limit + ANSWER_LIMIT) break;
        long due = rate > 0 ? (long)((t - started) / 1e9 * rate) + 1 : count;
        if (sent == have) sent = have = 0;
        while (built < count && built < due && built - answered < window && have + size < OUT) {
            long stamp = rate > 0 ? started + (long)(built / rate * 1e9) : now_ns();
            if (t - stamp > behind) behind = t - stamp;
            have += put(out + have, OUT - have, nchan, channel, built % users + 1, built / users, stamp);
            built++;
        }
        if (sent < have) {
            long n = write(fd, out + sent, have - sent);
            if (n < 0 && errno != EAGAIN) die("write");
            if (n > 0) sent += n;
        }
        long n = read(fd, in, IN);
        if (n == 0 || (n < 0 && errno != EAGAIN)) die("the place of publishing closed the connection");
        if (n > 0) answered += answers(in, n, nchan, &unheard, &refused);
        /* Nothing to do until an answer comes, there is room to write, or the next message is due. */
        struct pollfd p = {.fd = fd, .events = POLLIN | (sent < have ? POLLOUT : 0)};
        bool may_build = built < count && built - answered < window;
        long wait = may_build && rate > 0 ? started + (long)(built / rate * 1e9) - now_ns() : 20000000L;
        if (may_build && rate == 0 && have + size < OUT) wait = 0;
        if (wait > 0) {
            struct timespec ts = {wait / SECOND, wait % SECOND};
            ppoll(&p, 1, &ts, NULL);
        }
    }
    double took = (now_ns() - started) / 1e9;
    printf("{\"published\": %ld, \"wanted\": %ld, \"seconds\": %.4f, \"per_s\": %.0f, \"unheard\": %ld, \"refused\": %ld, "
           "\"behind_ms\": %.1f, \"cpu_s\": %.3f}\n",
           answered, wanted, took, answered / took, unheard, refused, behind / 1e6, cpu_seconds());
    return 0;
}

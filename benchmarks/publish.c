/* The publisher: sends numbered, time-stamped notifications at a rate, or as fast as they are taken.

     publish port=6379 to=redis channel=notifications rate=2000 count=20000 users=1 topics=0 also=1 pad=0 seconds=30 window=1000
             first=0

   Message i is for user i % users + 1 and carries #<i / users + first>T<ns>T. With `topics` it is for one of so many
   topics u, u + users, u + 2 users … of that user u, or (also=1) for the user, in turn. With a rate the stamp is the moment at
   which the message was DUE, so that time spent waiting in this program counts as latency too; with rate=0 it is
   the moment of writing. to=redis: RESP PUBLISH. to=nchan: POST /pub?user_id=N, pipelined on one connection.
   to=centrifugo: POST /api/batch with all that is due, at most `batch` messages, to the channel N; two requests
   are under way at a time, so batches grow with the load.
   At most `window` messages are unanswered at a time. Sends nothing after `seconds`. JSON on stdout. */
#include "common.h"
#include <poll.h>

#define ANSWER_LIMIT (10 * SECOND)
enum { OUT = 1 << 20, BIGGEST_PAD = 60000, IN = 1 << 16, HEAD = 128 };
typedef enum { REDIS, NCHAN, CENTRIFUGO } Place;
static char out[OUT], json[BIGGEST_PAD + 512], pad[BIGGEST_PAD + 1], in[IN];

static long users, topics, also;

/* The topic that the message with this sequence is for. 0: it is for the user. */
static long topic_of(long user, long seq) {
    long turn = topics ? seq % (topics + also) : 0;
    return topics && turn >= also ? user + (turn - also) * users : 0;
}

/* Append one message to the output. Returns its length in bytes. */
static int put(char *to, size_t room, Place place, const char *channel, long user, long seq, long stamp) {
    long topic = topic_of(user, seq);
    char to_whom[64];
    if (topic) snprintf(to_whom, sizeof to_whom, "\"topic\":\"t%ld\"", topic);
    else snprintf(to_whom, sizeof to_whom, "\"user_id\":%ld", user);
    int n = snprintf(json, sizeof json,
                     "{%s,\"message\":\"#%ldT%ldT%s\",\"created_at\":\"2024-01-01T12:00:00Z\"}", to_whom, seq,
                     stamp, pad);
    if (place == CENTRIFUGO)
        return snprintf(to, room, "{\"publish\":{\"channel\":\"%ld\",\"data\":%s}},", user, json);
    if (place == NCHAN)
        return snprintf(to, room, "POST /pub?user_id=%ld HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s",
                        user, n, json);
    return snprintf(to, room, "*3\r\n$7\r\nPUBLISH\r\n$%zu\r\n%s\r\n$%d\r\n%s\r\n", strlen(channel), channel, n, json);
}

/* Make a request out of the commands, of n bytes, that begin HEAD bytes after `to`. Returns its length. */
static int close_batch(char *to, int n) {
    static const char first[] = "{\"commands\":[", last[] = "]}";
    char head[HEAD];
    int body = sizeof first - 1 + n - 1 + sizeof last - 1; /* without the last comma */
    int h = snprintf(head, sizeof head, "POST /api/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s", body,
                     first);
    memcpy(to, head, h);
    memmove(to + h, to + HEAD, n - 1);
    memcpy(to + h + n - 1, last, sizeof last - 1);
    return h + n - 1 + sizeof last - 1;
}

/* Count what answers messages in what was read. Redis answers ":<subscribers>"; those with none are counted as
   unheard. nginx answers with a head and a small body; a head ends the answer before it well enough for counting.
   Centrifugo's answer has a "publish": or an "error": for each command. */
static long answers(const char *p, long n, Place place, long *unheard, long *refused) {
    static char last[4]; /* the bytes before p, for a pattern cut by a read */
    long count = 0;
    for (long i = 0; i < n; i++) {
        if (place == CENTRIFUGO) {
            if (p[i] == ':' && last[3] == '"' && (!memcmp(last, "ish", 3) || !memcmp(last, "ror", 3))) {
                count++;
                *refused += last[0] == 'r';
            }
        } else if (place == NCHAN) { /* "HTTP/1.1 2": the only capital P before a slash */
            if (last[3] == 'P' && p[i] == '/') count++;
        } else if (p[i] == '\n') {
            count++;
        } else if (last[3] == ':' && p[i] == '0') {
            (*unheard)++;
        } else if (p[i] == '-' && (last[3] == '\n' || !last[3])) {
            (*refused)++;
        }
        last[0] = last[1];
        last[1] = last[2];
        last[2] = last[3];
        last[3] = p[i];
    }
    return count;
}

int main(int argc, char **argv) {
    const char *where = arg(argc, argv, "to", "redis");
    Place place = !strcmp(where, "nchan") ? NCHAN : !strcmp(where, "centrifugo") ? CENTRIFUGO : REDIS;
    const char *channel = arg(argc, argv, "channel", "notifications");
    double rate = arg_double(argc, argv, "rate", "0");
    long wanted = arg_long(argc, argv, "count", "1"), count = wanted;
    long window = arg_long(argc, argv, "window", "1000"), padding = arg_long(argc, argv, "pad", "0");
    long batch = arg_long(argc, argv, "batch", "500"), first = arg_long(argc, argv, "first", "0");
    long limit = arg_double(argc, argv, "seconds", "60") * SECOND;
    memset(pad, 'x', padding < BIGGEST_PAD ? padding : BIGGEST_PAD);
    prctl(PR_SET_TIMERSLACK, 1000UL); /* wake up on time: 1 us instead of 50 */

    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    users = arg_long(argc, argv, "users", "1");
    topics = arg_long(argc, argv, "topics", "0");
    also = arg_long(argc, argv, "also", "1");
    struct sockaddr_in to = loopback(arg_long(argc, argv, "port", "6379"));
    if (connect(fd, (void *)&to, sizeof to)) die("connect to the place of publishing");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);

    long started = now_ns(), t = started, built = 0, answered = 0, unheard = 0, refused = 0, behind = 0;
    long before_last = 0; /* built before the last batch: when these are answered, the next may go */
    size_t have = 0, sent = 0, size = padding + 512 + HEAD;
    while (answered < count) {
        t = now_ns();
        if (t - started > limit && count > built) count = built; /* late: send no more, wait for answers */
        if (t - started > limit + ANSWER_LIMIT) break;
        long due = rate > 0 ? (long)((t - started) / 1e9 * rate) + 1 : count;
        if (sent == have) sent = have = 0;
        while (built < count && built < due && built - answered < window && have + size < OUT && answered >= before_last) {
            if (place == CENTRIFUGO) before_last = built;
            size_t from = have + (place == CENTRIFUGO ? HEAD : 0), to = from;
            long until = place == CENTRIFUGO ? built + batch : built + 1;
            do {
                long stamp = rate > 0 ? started + (long)(built / rate * 1e9) : now_ns();
                if (t - stamp > behind) behind = t - stamp;
                to += put(out + to, OUT - to, place, channel, built % users + 1, built / users + first, stamp);
                built++;
            } while (built < count && built < due && built < until && built - answered < window && to + size < OUT);
            have = place == CENTRIFUGO ? have + close_batch(out + have, to - from) : to;
        }
        if (sent < have) {
            long n = write(fd, out + sent, have - sent);
            if (n < 0 && errno != EAGAIN) die("write");
            if (n > 0) sent += n;
        }
        long n = read(fd, in, IN);
        if (n == 0 || (n < 0 && errno != EAGAIN)) die("the place of publishing closed the connection");
        if (n > 0) answered += answers(in, n, place, &unheard, &refused);
        /* Nothing to do until an answer comes, there is room to write, or the next message is due. */
        struct pollfd p = {.fd = fd, .events = POLLIN | (sent < have ? POLLOUT : 0)};
        bool may_build = built < count && built - answered < window && answered >= before_last;
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

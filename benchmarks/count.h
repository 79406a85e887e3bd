/* What arrives is counted here: messages by their sequence numbers, gap events, places to resume from. */
#pragma once
#include "stream.h"

#include "histogram.h"

enum { GAP_EVENT = 40 };          /* the shortest `event: gap` with its data line is longer than this */

static Histogram latency;
static long up;                   /* streams that have shown the mark */
static long received, holes, duplicates, reordered, gaps, gap_dropped, gap_unknown;
static long first_event, last_event;
static double cpu_first;
static const char *ready_mark, *id_mark, *epoch_mark; /* the latter two: "" where they are not wanted */

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

/* Keep what follows the last `mark` of the text, up to the end of the value. */
static void keep_place(char *to, const char *mark, const char *p, const char *end) {
    size_t n = strlen(mark);
    while (n && (p = memmem(p, end - p, mark, n))) {
        p += n;
        size_t length = 0;
        while (p + length < end && !strchr("\r\n\",}", p[length])) length++;
        if (p + length == end || length >= PLACE) return; /* not whole yet */
        memcpy(to, p, length);
        to[length] = 0;
    }
}

/* Count the messages in the body text [p, end); keep what follows the last one for the next time.
   Text between two messages is searched for gaps only if it is long enough to hold one: `shortest` is the
   shortest such text seen that held none. */
static void scan(Conn *c, const char *p, const char *end, long t) {
    static long shortest = 0;
    const char *start = p, *mark;
    keep_place(c->id, id_mark, p, end);
    keep_place(c->epoch, epoch_mark, p, end);
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

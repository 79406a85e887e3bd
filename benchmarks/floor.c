/* The floor of the machine: a server that does one send() per connection and message and nothing else.

     floor port=8085 conns=1000 seconds=3 rate=0 pad=0

   Accepts `conns` streams, prints LISTENING at the start on stderr, and waits for a line on standard input. Then, for
   `seconds`, it sends one message to each connection in turn, `rate` rounds a second (0: without pause). A send
   that the kernel does not take at once is counted as blocked and not repeated. JSON on stdout; the connections
   stay open until standard input closes. */
#include "common.h"
#include <poll.h>

static const char HEAD[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                           "1b\r\nevent: connected\ndata: {}\n\n\r\n";

int main(int argc, char **argv) {
    long conns = arg_long(argc, argv, "conns", "1000"), padding = arg_long(argc, argv, "pad", "0");
    double rate = arg_double(argc, argv, "rate", "0");
    long length = arg_double(argc, argv, "seconds", "3") * SECOND;
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in at = loopback(arg_long(argc, argv, "port", "8085"));
    raise_file_limit();
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&at, sizeof at) || listen(listener, 4096)) die("listen");
    fprintf(stderr, "LISTENING\n");

    int *fd = malloc(conns * sizeof *fd);
    char request[4096];
    for (long i = 0; i < conns; i++) {
        fd[i] = accept(listener, NULL, NULL);
        if (fd[i] < 0) die("accept");
        setsockopt(fd[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (read(fd[i], request, sizeof request) <= 0 || write(fd[i], HEAD, sizeof HEAD - 1) < 0) die("greet");
        fcntl(fd[i], F_SETFL, O_NONBLOCK);
    }
    if (read(0, request, sizeof request) <= 0) return 0;

    char *pad = calloc(1, padding + 1), *event = malloc(padding + 256), *chunk = malloc(padding + 300);
    memset(pad, 'x', padding);
    double cpu = cpu_seconds();
    long started = now_ns(), sent = 0, blocked = 0, round = 0;
    for (; now_ns() - started < length; round++) {
        if (rate > 0) {
            long due = started + (long)(round / rate * 1e9);
            struct timespec ts = {due / SECOND, due % SECOND};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
        }
        int n = sprintf(event, "data: {\"user_id\":1,\"message\":\"#%ldT%ldT%s\",\"created_at\":\"2024-01-01T12:00:00Z\"}\n\n",
                        round, now_ns(), pad);
        int m = sprintf(chunk, "%x\r\n%s\r\n", n, event);
        for (long i = 0; i < conns; i++) {
            if (send(fd[i], chunk, m, MSG_NOSIGNAL) == m) sent++;
            else blocked++;
        }
    }
    double took = (now_ns() - started) / 1e9;
    printf("{\"sends\": %ld, \"blocked\": %ld, \"rounds\": %ld, \"seconds\": %.4f, \"per_s\": %.0f, \"cpu_s\": %.3f}\n", sent,
           blocked, round, took, sent / took, cpu_seconds() - cpu);
    fflush(stdout);
    while (read(0, request, sizeof request) > 0) {}
    return 0;
}

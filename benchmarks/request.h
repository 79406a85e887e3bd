/* Requests out of templates: {user} {topics} {token} {id} {epoch} stand for what the connection has of them. */
#pragma once
#include "stream.h"

/* Copy the template to `to`, filled in. Cuts off what has no room. */
static void fill(char *to, size_t room, const char *template, const Conn *c, const char *user, const char *token,
                 const char *topics) {
    const char *names[] = {"{user}", "{token}", "{topics}", "{id}", "{epoch}"};
    const char *values[] = {user, token, topics, c->id, c->epoch};
    size_t n = 0;
    while (*template && n + 1 < room) {
        int k = 0;
        while (k < 5 && strncmp(template, names[k], strlen(names[k]))) k++;
        if (k == 5) {
            to[n++] = *template++;
            continue;
        }
        n += snprintf(to + n, room - n, "%s", values[k]);
        if (n >= room) n = room - 1;
        template += strlen(names[k]);
    }
    to[n] = 0;
}

/* Write the topics of user `user` as parameters of a query, each with & before it. `step` is from one to the next. */
static void topics_of(char *to, size_t room, long user, long count, long step) {
    size_t n = 0;
    *to = 0;
    for (long i = 0; i < count && n < room; i++) n += snprintf(to + n, room - n, "&topic=t%ld", user + i * step);
}

/* The lines of a file, `count` of them. Dies if there are fewer. */
static char **lines_of(const char *file, long count) {
    char **lines = calloc(count, sizeof *lines);
    FILE *f = fopen(file, "r");
    if (!f) die(file);
    for (long i = 0; i < count; i++) {
        size_t room = 0;
        ssize_t n = getline(&lines[i], &room, f);
        if (n <= 0) die("too few lines in the file of tokens");
        lines[i][strcspn(lines[i], "\n")] = 0;
    }
    fclose(f);
    return lines;
}

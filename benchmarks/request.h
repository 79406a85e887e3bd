/* Requests out of templates: {user} {token} {id} {epoch} stand for what the connection has of them. */
#pragma once
#include "stream.h"

/* Copy the template to `to`, filled in. Cuts off what has no room. */
static void fill(char *to, size_t room, const char *template, const Conn *c, const char *user, const char *token) {
    const char *names[] = {"{user}", "{token}", "{id}", "{epoch}"}, *values[] = {user, token, c->id, c->epoch};
    size_t n = 0;
    while (*template && n + 1 < room) {
        int k = 0;
        while (k < 4 && strncmp(template, names[k], strlen(names[k]))) k++;
        if (k == 4) {
            to[n++] = *template++;
            continue;
        }
        n += snprintf(to + n, room - n, "%s", values[k]);
        if (n >= room) n = room - 1;
        template += strlen(names[k]);
    }
    to[n] = 0;
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

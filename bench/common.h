// What the programs of this folder have in common: arguments, time, buffers, sockets, and the packets with their check.
//
// Message n of client c has a payload that no other message has, "c<c>-<n>-" and then text that depends on both, so a
// wrong answer can't pass for the right one. Policy j (from 0) is called 111 * (j + 1). Servers are called s1, s2, ...
// Policies and servers are dealt out to so many groups, and a server serves the policies of its group, and no other.

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HELPER static __attribute__((unused))

// Exit codes, told apart by load.py.
enum { WRONG_ANSWER = 1, USAGE = 2, TROUBLE = 3 };

HELPER __attribute__((format(printf, 2, 3), noreturn)) void die(int code, const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    vfprintf(stderr, format, rest);
    va_end(rest);
    fputc('\n', stderr);
    exit(code);
}

// Arguments: name=value, each name that the program asks for by option() or text_option(). The last one counts.

static int argument_count;
static char **arguments;

HELPER const char *text_option(const char *name, const char *otherwise) {
    size_t n = strlen(name);
    for (int i = argument_count - 1; i > 0; i--)
        if (!strncmp(arguments[i], name, n) && arguments[i][n] == '=') return arguments[i] + n + 1;
    return otherwise;
}

HELPER double option(const char *name, double otherwise) {
    const char *text = text_option(name, NULL);
    char *end;
    if (!text) return otherwise;
    double value = strtod(text, &end);
    if (end == text || *end) die(USAGE, "%s=%s: this is no number", name, text);
    return value;
}

HELPER void read_arguments(int count, char **values) {
    argument_count = count;
    arguments = values;
    for (int i = 1; i < count; i++)
        if (!strchr(values[i], '=')) die(USAGE, "%s: an argument is name=value", values[i]);
    signal(SIGPIPE, SIG_IGN);
}

// How much of something that is wrong is shown.
#define SHOWN(n) (int)((n) < 400 ? (n) : 400)

// Time, in nanoseconds.

#define SECOND 1000000000LL

HELPER int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

// Bytes that come and go: at[from] up to at[to] are there.

struct bytes {
    char *at;
    size_t from, to, room;
};

HELPER void reserve(struct bytes *b, size_t more) {
    if (b->from == b->to) b->from = b->to = 0;
    if (b->to + more <= b->room) return;
    if (b->from) {
        memmove(b->at, b->at + b->from, b->to - b->from);
        b->to -= b->from;
        b->from = 0;
    }
    size_t room = b->room ? b->room : 1024;
    while (room < b->to + more) room *= 2;
    if (room != b->room && !(b->at = realloc(b->at, b->room = room))) die(TROUBLE, "out of memory");
}

HELPER void append(struct bytes *b, const void *data, size_t n) {
    reserve(b, n);
    memcpy(b->at + b->to, data, n);
    b->to += n;
}

HELPER __attribute__((format(printf, 2, 3))) void append_text(struct bytes *b, const char *format, ...) {
    char text[512];
    va_list rest;
    va_start(rest, format);
    int n = vsnprintf(text, sizeof text, format, rest);
    va_end(rest);
    append(b, text, n);
}

// Sockets. All of them are non-blocking and on 127.0.0.1.

HELPER struct sockaddr_in local(int last, int port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(0x7f000000 | last)};
}

// Connects to a port. The own address is one of eight in turn, so that what is left of closed connections doesn't use
// up the port numbers where each message is a connection.
HELPER int dial(int port) {
    static unsigned dialled;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in own = local(1 + dialled++ % 8, 0), other = local(1, port);
    if (fd < 0) die(TROUBLE, "no socket: %s", strerror(errno));
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(fd, (void *)&own, sizeof own) || connect(fd, (void *)&other, sizeof other))
        die(TROUBLE, "can't connect to port %d: %s", port, strerror(errno));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

// Reads what there is: the number of bytes, 0 if there are none now, -1 if the connection has ended.
HELPER ssize_t read_some(int fd, struct bytes *in) {
    static char some[1 << 18];
    ssize_t n = recv(fd, some, sizeof some, 0);
    if (n > 0) append(in, some, n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR)) return -1;
    return n > 0 ? n : 0;
}

// Writes what can be written: 0 if something is left, 1 if all is written, -1 if the connection is broken.
HELPER int write_some(int fd, struct bytes *out) {
    while (out->from < out->to) {
        ssize_t n = send(fd, out->at + out->from, out->to - out->from, MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
        out->from += n;
    }
    out->from = out->to = 0;
    return 1;
}

HELPER void watch(int poll, int how, int fd, bool reading, bool writing, void *whose) {
    struct epoll_event event = {.events = (reading ? EPOLLIN : 0) | (writing ? EPOLLOUT : 0), .data.ptr = whose};
    if (epoll_ctl(poll, how, fd, &event)) die(TROUBLE, "epoll_ctl: %s", strerror(errno));
}

// Reading JSON: where an object ends, and what the fields of a flat one are.

struct scan {
    size_t at;
    int depth;
    bool in_string;
};

#define NO_OBJECT ((size_t)-1)

// The length of the first object of p, white space before it included; 0 if it isn't whole yet, and then the next call
// goes on where this one stopped; NO_OBJECT if none begins there.
HELPER size_t object_length(struct scan *s, const char *p, size_t n) {
    while (s->at < n) {
        const char *here = p + s->at;
        if (s->in_string) {
            const char *quote = memchr(here, '"', n - s->at);
            const char *slash = memchr(here, '\\', quote ? (size_t)(quote - here) : n - s->at);
            if (slash) {
                s->at = slash - p;
                if (s->at + 2 > n) return 0;
                s->at += 2;
            } else if (quote) {
                s->at = quote - p + 1;
                s->in_string = false;
            } else s->at = n;
            continue;
        }
        s->at++;
        if (*here == '{') s->depth++;
        else if (!s->depth && !strchr(" \t\r\n", *here)) return NO_OBJECT;
        else if (*here == '"') s->in_string = true;
        else if (*here == '}' && !--s->depth) {
            size_t length = s->at;
            *s = (struct scan){0};
            return length;
        }
    }
    return 0;
}

struct text {
    const char *at;
    size_t n;
};

// The text between the next two quotes in p; at is NULL if there are no two.
HELPER struct text next_string(const char *p, const char *end) {
    const char *begin = memchr(p, '"', end - p);
    if (!begin++) return (struct text){0};
    const char *from = begin, *quote;
    while ((quote = memchr(from, '"', end - from))) {
        size_t slashes = 0;
        while (quote - slashes > begin && quote[-(ssize_t)slashes - 1] == '\\') slashes++;
        if (slashes % 2 == 0) return (struct text){begin, quote - begin};
        from = quote + 1;
    }
    return (struct text){0};
}

// The value of a field of a flat object; at is NULL if it has none.
HELPER struct text field(struct text object, const char *name) {
    const char *p = object.at, *end = object.at + object.n;
    for (;;) {
        struct text key = next_string(p, end), value;
        if (!key.at) return (struct text){0};
        p = key.at + key.n + 1;
        while (p < end && strchr(": \t\r\n", *p)) p++;
        if (p < end && *p == '"') {
            value = next_string(p, end);
            if (!value.at) return (struct text){0};
            p = value.at + value.n + 1;
        } else {
            value.at = p;
            while (p < end && !strchr(",} \t\r\n", *p)) p++;
            value.n = p - value.at;
        }
        if (key.n == strlen(name) && !memcmp(key.at, name, key.n)) return value;
    }
}

HELPER bool is(struct text t, const char *what) {
    return t.at && t.n == strlen(what) && !memcmp(t.at, what, t.n);
}

// The number at the end of a name, as in c12 or s3; -1 if it is none.
HELPER long number(struct text t, const char *letter) {
    size_t n = strlen(letter);
    long value = 0;
    if (!t.at || t.n <= n || t.n > n + 12 || memcmp(t.at, letter, n)) return -1;
    for (size_t i = n; i < t.n; i++) {
        if (t.at[i] < '0' || t.at[i] > '9') return -1;
        value = value * 10 + t.at[i] - '0';
    }
    return value;
}

// HTTP: the length of the first message of p, head and body, 0 if it isn't whole yet; the body is what is left in it.
HELPER size_t http_length(const char *p, size_t n, struct text *body) {
    const char *end = memmem(p, n, "\r\n\r\n", 4);
    if (!end) return 0;
    for (const char *line = p; line < end; line++) {
        if (!strncasecmp(line, "\r\ncontent-length:", 17)) {
            *body = (struct text){end + 4, strtoul(line + 17, NULL, 10)};
            size_t length = end + 4 - p + body->n;
            return length <= n ? length : 0;
        }
    }
    die(WRONG_ANSWER, "wrong answer: an HTTP message without a length: %.300s", p);
}

// The messages and their check.

#define TURNS 4096

static int payload_size, policies, groups;
static char *padding;

HELPER void read_message_arguments(void) {
    payload_size = option("payload", 24);
    policies = option("policies", 2);
    groups = option("groups", 1);
    if (!(padding = malloc(TURNS + payload_size))) die(TROUBLE, "out of memory");
    uint32_t random = 1;
    for (int i = 0; i < TURNS + payload_size; i++) {
        random = random * 1664525 + 1013904223;
        padding[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ."[random >> 26];
    }
}

HELPER int policy_name(int policy) {
    return 111 * (policy + 1);
}

// Writes the beginning of a payload into start, which has room for it, and says what the rest is.
HELPER struct text payload_rest(char *start, int *start_size, long client, long message) {
    *start_size = sprintf(start, "c%ld-%ld-", client, message);
    int rest = payload_size - *start_size;
    return (struct text){padding + (client * 131 + message * 17) % TURNS, rest > 0 ? rest : 0};
}

HELPER void append_packet(struct bytes *out, long client, long message, int policy, bool http) {
    char head[128], start[64];
    int start_size,
        head_size = sprintf(head, "{\"type\": \"0\", \"srcid\": \"c%ld\", \"privPoliId\": \"%d\", \"payload\": \"",
                            client, policy_name(policy));
    struct text rest = payload_rest(start, &start_size, client, message);
    if (http)
        append_text(out, "POST / HTTP/1.1\r\nHost: proxy\r\nContent-Length: %zu\r\n\r\n",
                    head_size + start_size + rest.n + 2);
    append(out, head, head_size);
    append(out, start, start_size);
    append(out, rest.at, rest.n);
    append(out, "\"}", 2);
}

HELPER void append_answer(struct bytes *out, int server, struct text client, struct text payload, bool http) {
    char head[512];
    int head_size = snprintf(
        head, sizeof head,
        "{\"type\": \"2\", \"srcid\": \"s%d\", \"destid\": \"%.*s\", \"payloadsize\": \"%zu\", \"payload\": \"", server,
        (int)client.n, client.at, payload.n);
    if (http) append_text(out, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", head_size + payload.n + 2);
    append(out, head, head_size);
    append(out, payload.at, payload.n);
    append(out, "\"}", 2);
}

// What is wrong with an answer; NULL if it is the right one.
HELPER const char *fault(struct text answer, long client, long message, int policy) {
    char start[64];
    int start_size;
    struct text payload = field(answer, "payload"), rest = payload_rest(start, &start_size, client, message);
    long server = number(field(answer, "srcid"), "s");
    if (is(field(answer, "type"), "3")) return "it is an error";
    if (!is(field(answer, "type"), "2")) return "it is no answer";
    if (number(field(answer, "destid"), "c") != client) return "it is another client's";
    if (!payload.at || payload.n != start_size + rest.n) return "its payload has another length";
    if (memcmp(payload.at, start, start_size)) return "its payload is another message's";
    if (memcmp(payload.at + start_size, rest.at, rest.n)) return "its payload was changed";
    if (server < 1 || (server - 1) % groups != policy % groups) return "it is of a server of another policy";
    return NULL;
}

HELPER __attribute__((noreturn)) void show_fault(const char *fault, struct text answer, long client, long message,
                                                 int policy) {
    die(WRONG_ANSWER, "wrong answer to message %ld of client c%ld for policy %d: %s: %.*s%s", message, client,
        policy_name(policy), fault, SHOWN(answer.n), answer.at, answer.n < 400 ? "" : " ...");
}

HELPER void check(struct text answer, long client, long message, int policy) {
    const char *wrong = fault(answer, client, message, policy);
    if (wrong) show_fault(wrong, answer, client, message, policy);
}

// Clients that ask more of a proxy than they give, to see what becomes of the others meanwhile.
//
//   port=N            the proxy's, on 127.0.0.1
//   connections=N     each is a client
//   seconds=S         how long at most; SIGTERM ends it earlier
//   how=never-reads   they send packets and don't read
//   how=hopeless      they ask servers that don't answer, depth=N packets each, for policy only=J (from 0)
//   how=bytewise      they send a packet of 1 MiB: its first head=N bytes at once, the others one at a time, rate=N a
//                     second over all connections
//   payload=N         bytes, of the first two
//   policies=N        of the first
//
// It prints "busy" when it is in full swing, and a line of JSON at the end. The hopeless check what they get: it must
// be an error for them, and no more of those than they sent packets.

#include "common.h"

#define PACKET (1 << 20)

struct client {
    int fd;
    long number, sent, answered;
    struct bytes in, out;
    struct scan scan;
    bool writing;
};

static int port, poll_fd, connections, only;
static struct client *clients;
static long packets_sent, bytes_sent, refusals;
static int64_t limit;
static volatile sig_atomic_t stopped;

static void stop(int number) {
    (void)number;
    stopped = 1;
}

static bool over(void) {
    return stopped || now() > limit;
}

static void busy(void) {
    puts("busy");
    fflush(stdout);
}

static __attribute__((noreturn)) void ended(struct client *c) {
    die(WRONG_ANSWER, "the connection of rude client c%ld ended: %.*s", c->number,
        SHOWN(c->in.to - c->in.from), c->in.at + c->in.from);
}

static int push(struct client *c) {
    size_t before = c->out.to - c->out.from;
    int written = write_some(c->fd, &c->out);
    if (written < 0) ended(c);
    bytes_sent += before - (c->out.to - c->out.from);
    return written;
}

static void flush(struct client *c) {
    if (c->writing == (push(c) == 1)) {
        c->writing = !c->writing;
        watch(poll_fd, EPOLL_CTL_MOD, c->fd, true, c->writing, c);
    }
}

static void append_next(struct client *c, int policy) {
    append_packet(&c->out, c->number, c->sent++, policy, false);
    packets_sent++;
}

static void never_read(void) {
    for (int i = 0; i < connections; i++) watch(poll_fd, EPOLL_CTL_MOD, clients[i].fd, false, true, &clients[i]);
    busy();
    while (!over()) {
        struct epoll_event events[64];
        int count = epoll_wait(poll_fd, events, 64, 20);
        for (int i = 0; i < count; i++) {
            struct client *c = events[i].data.ptr;
            for (int j = 0; j < 16 && c->out.to - c->out.from < 1 << 16; j++)
                append_next(c, (c->number + c->sent) % policies);
            push(c);
        }
    }
}

static void take_refusals(struct client *c) {
    size_t length;
    if (read_some(c->fd, &c->in) < 0) ended(c);
    while (c->in.from < c->in.to && (length = object_length(&c->scan, c->in.at + c->in.from, c->in.to - c->in.from))) {
        struct text answer = {c->in.at + c->in.from, length};
        if (length == NO_OBJECT || !is(field(answer, "type"), "3") ||
            number(field(answer, "destid"), "c") != c->number || c->answered == c->sent)
            show_fault("nobody could have answered it", (struct text){answer.at, length == NO_OBJECT ? 100 : length},
                       c->number, c->answered, only);
        c->in.from += length;
        c->answered++;
        refusals++;
        append_next(c, only);
    }
}

static void ask_in_vain(int depth) {
    for (int i = 0; i < connections; i++) {
        struct client *c = &clients[i];
        while (c->sent < depth) append_next(c, only);
        flush(c);
    }
    busy();
    while (!over()) {
        struct epoll_event events[64];
        int count = epoll_wait(poll_fd, events, 64, 20);
        for (int i = 0; i < count; i++) {
            struct client *c = events[i].data.ptr;
            if (events[i].events & ~EPOLLOUT) take_refusals(c);
            flush(c);
        }
    }
}

static void send_heads(size_t size) {
    long unsent = connections;
    for (int i = 0; i < connections; i++) {
        struct client *c = &clients[i];
        append_text(&c->out, "{\"type\": \"0\", \"srcid\": \"c%ld\", \"privPoliId\": \"%d\", \"payload\": \"",
                    c->number, policy_name(0));
        if (size > c->out.to) {
            reserve(&c->out, size);
            memset(c->out.at + c->out.to, 'x', size - c->out.to);
            c->out.to = size;
        }
    }
    while (unsent && !over()) {
        unsent = 0;
        for (int i = 0; i < connections; i++) {
            flush(&clients[i]);
            unsent += clients[i].out.from < clients[i].out.to;
        }
        if (unsent) usleep(1000);
    }
}

// Waits until the proxy has read what was sent: an ordinary message is then answered at once, several times running.
static void wait_until_read(void) {
    struct client c = {.fd = dial(port), .number = 99999};
    int64_t latest = now() + 20 * SECOND;
    for (int swift = 0; swift < 10 && now() < latest && !over(); usleep(1000)) {
        int64_t asked = now();
        size_t length = 0;
        append_next(&c, 0);
        for (push(&c); !length && !over(); usleep(50)) {
            if (read_some(c.fd, &c.in) < 0) ended(&c);
            length = object_length(&c.scan, c.in.at + c.in.from, c.in.to - c.in.from);
        }
        c.in.from += length;
        swift = now() - asked < SECOND / 200 ? swift + 1 : 0;
    }
    close(c.fd);
}

static void send_bytes(size_t head, double rate) {
    send_heads(head);
    wait_until_read();
    packets_sent = bytes_sent = 0;
    for (int i = 0; i < connections; i++) clients[i].sent = head;
    busy();
    int64_t begin = now();
    for (long i = 0; !over(); i++) {
        struct client *c = &clients[i % connections];
        int64_t due = begin + i * (SECOND / rate), wait = due - now();
        if (wait > 1000000) usleep(wait / 1000);
        // The last byte never comes: the packet would else be a right one.
        if (c->sent < PACKET - 2 && send(c->fd, "x", 1, MSG_NOSIGNAL) == 1) {
            c->sent++;
            bytes_sent++;
        } else if (c->sent < PACKET - 2 && errno != EAGAIN && errno != EINTR) ended(c);
    }
}

int main(int count, char **values) {
    read_arguments(count, values);
    read_message_arguments();
    signal(SIGTERM, stop);
    port = option("port", 0);
    connections = option("connections", 1);
    only = option("only", 0);
    limit = now() + option("seconds", 10) * SECOND;
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    clients = calloc(connections, sizeof *clients);
    for (int i = 0; i < connections; i++) {
        // Ids that none of the well-behaved clients has.
        clients[i] = (struct client){.fd = dial(port), .number = 100000 + i};
        watch(poll_fd, EPOLL_CTL_ADD, clients[i].fd, true, false, &clients[i]);
        if (i % 100 == 99) usleep(5000);
    }
    const char *how = text_option("how", "");
    if (!strcmp(how, "never-reads")) never_read();
    else if (!strcmp(how, "hopeless")) ask_in_vain(option("depth", 16));
    else if (!strcmp(how, "bytewise")) send_bytes(option("head", 0), option("rate", 50000));
    else die(USAGE, "how=%s: that is unknown", how);
    printf("{\"packets\": %ld, \"bytes\": %ld, \"refusals\": %ld}\n", packets_sent, bytes_sent, refusals);
    return 0;
}

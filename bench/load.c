// Clients: they send messages to a proxy, check every answer, and say what a message cost the proxy.
//
//   port=N            the proxy's, on 127.0.0.1
//   pids=N,N          the proxy's processes, whose processor time is measured
//   seconds=S         how long to measure, after warmup=S
//   connections=N     each is a client, and has
//   depth=N           messages in flight at a time
//   one_shot=1        a new connection for each message
//   rate=N            instead of depth: so many messages a second over all connections, each at its time, whether or
//                     not the answers come. How long an answer took counts from the time at which its message was to
//                     be sent, so a stall is seen in all messages that were due meanwhile.
//   idle=N            further connections, which send nothing; with used=1 they have sent one message before
//   payload=N         bytes
//   policies=N        message n of client c is for policy (c + n) % policies; with sticky=1 for c % policies
//   groups=N          how servers and policies are dealt out, see common.h
//   http=1            messages are the bodies of HTTP/1.1 requests
//
// It prints "measuring" when the warm-up is over and a line of JSON at the end. A wrong answer ends it with exit code 1
// and is shown: an error, the answer to another message or client, of a server of another policy, twice, or never.

#include "gauge.h"
#include <sys/timerfd.h>

#define RING 1024

struct client {
    int fd;
    long number, sent, answered;
    int64_t *since;
    struct bytes in, out;
    struct scan scan;
    bool writing, idle;
};

static int port, connections, depth, poll_fd, timer_fd;
static bool one_shot, http, sticky;
static double rate;
static long in_flight;
static struct client *clients;

static int policy_of(struct client *c, long message) {
    return (c->number + (sticky ? 0 : message)) % policies;
}

static __attribute__((noreturn)) void ended(struct client *c) {
    die(WRONG_ANSWER,
        "no answer: the connection of client c%ld ended with %ld messages unanswered, and with this: %.*s", c->number,
        c->sent - c->answered, SHOWN(c->in.to - c->in.from), c->in.at + c->in.from);
}

static void connect_client(struct client *c) {
    c->fd = dial(port);
    watch(poll_fd, EPOLL_CTL_ADD, c->fd, true, false, c);
}

static void flush(struct client *c) {
    int written = write_some(c->fd, &c->out);
    if (written < 0) ended(c);
    if (c->writing == (written == 1)) {
        c->writing = !c->writing;
        watch(poll_fd, EPOLL_CTL_MOD, c->fd, true, c->writing, c);
    }
}

static void ask(struct client *c, int64_t since) {
    append_packet(&c->out, c->number, c->sent, policy_of(c, c->sent), http);
    c->since[c->sent++ % RING] = since;
    in_flight++;
}

static void ask_more(struct client *c, int count) {
    int64_t t = now();
    while (count--) ask(c, t);
    flush(c);
}

// The length of the next answer that is there, 0 if none is.
static size_t next_answer(struct client *c, struct text *answer) {
    const char *p = c->in.at + c->in.from;
    size_t n = c->in.to - c->in.from, length;
    if (http) {
        length = http_length(p, n, answer);
        if (length && n >= 12 && memcmp(p + 8, " 200", 4)) *answer = (struct text){p, length};
        return length;
    }
    length = object_length(&c->scan, p, n);
    if (length == NO_OBJECT)
        die(WRONG_ANSWER, "wrong answer to client c%ld: this is no JSON object: %.*s", c->number,
            SHOWN(n), p);
    *answer = (struct text){p, length};
    return length;
}

static void receive(struct client *c, bool more) {
    struct text answer;
    size_t length;
    int count = 0;
    bool over = read_some(c->fd, &c->in) < 0;
    while (c->in.from < c->in.to && (length = next_answer(c, &answer))) {
        if (c->answered == c->sent)
            die(WRONG_ANSWER, "wrong answer to client c%ld, which asked nothing: %.*s", c->number,
                SHOWN(answer.n), answer.at);
        check(answer, c->number, c->answered, policy_of(c, c->answered));
        c->in.from += length;
        if (!c->idle) note_answer(c->since[c->answered % RING]);
        c->answered++;
        in_flight--;
        count++;
    }
    if (over && !(one_shot && count)) ended(c);
    if (one_shot && count) {
        if (c->in.from < c->in.to) ended(c);
        close(c->fd);
        if (more) connect_client(c);
    }
    if (more && count && !rate && !c->idle) ask_more(c, count);
}

// Handles what happens within so many milliseconds.
static void wait_a_turn(int milliseconds, bool more) {
    struct epoll_event events[256];
    int count = epoll_wait(poll_fd, events, 256, milliseconds);
    for (int i = 0; i < count; i++) {
        struct client *c = events[i].data.ptr;
        uint64_t expirations;
        if (!c) {
            if (read(timer_fd, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
                die(TROUBLE, "timer: %s", strerror(errno));
            continue;
        }
        if (events[i].events & EPOLLOUT) flush(c);
        if (events[i].events & ~EPOLLOUT) receive(c, more);
    }
}

// Sends what is due by the schedule, and sets the timer for what comes next.
static void send_due(int64_t first, long *sent) {
    int64_t due, t = now();
    while ((due = first + *sent * (SECOND / rate)) <= t) {
        struct client *c = &clients[*sent % connections];
        if (c->sent - c->answered == RING) return;  // It is that far behind; the message is sent when there is room.
        ask(c, due);
        flush(c);
        ++*sent;
    }
    struct itimerspec timer = {.it_value = {due / SECOND, due % SECOND}};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &timer, NULL);
}

static void add_client(struct client *c, long number, bool idle) {
    *c = (struct client){.number = number, .idle = idle, .since = malloc((idle ? 1 : RING) * sizeof(int64_t))};
    if (!c->since) die(TROUBLE, "out of memory");
    connect_client(c);
}

// Not all at once: they would wait in the proxy's backlog, and those that find it full for a second.
static void add_idle_clients(int count, bool used) {
    for (int i = 0; i < count; i++) {
        struct client *c = &clients[connections + i];
        add_client(c, connections + i, true);
        if (used) ask_more(c, 1);
        if (i % 100 == 99) usleep(used ? 0 : 5000);
        while (i % 100 == 99 && in_flight) wait_a_turn(100, false);
    }
    while (in_flight) wait_a_turn(100, false);
}

int main(int count, char **values) {
    read_arguments(count, values);
    read_message_arguments();
    port = option("port", 0);
    connections = option("connections", 50);
    depth = option("depth", 1);
    one_shot = option("one_shot", 0);
    http = option("http", 0);
    sticky = option("sticky", 0);
    rate = option("rate", 0);
    if (connections < 1 || depth < 1 || depth > RING || (one_shot && (depth > 1 || rate)))
        die(USAGE, "these arguments don't go together");
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    int idle = option("idle", 0);
    clients = calloc(connections + idle, sizeof *clients);
    if (!clients) die(TROUBLE, "out of memory");
    add_idle_clients(idle, option("used", 0));
    for (int i = 0; i < connections; i++) add_client(&clients[i], i, false);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    watch(poll_fd, EPOLL_CTL_ADD, timer_fd, true, false, NULL);
    start_measuring();
    for (int i = 0; i < connections && !rate; i++) ask_more(&clients[i], depth);
    int64_t first = now();
    long sent = 0;
    for (bool more; (more = go_on()) || in_flight;) {
        if (more && rate) send_due(first, &sent);
        wait_a_turn(20, more);
    }
    // Everything is answered. Nothing more may come.
    for (int i = 0; i < connections && !one_shot; i++) receive(&clients[i], false);
    report();
    return 0;
}

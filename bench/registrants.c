// Servers that register and keep their leases, and serve nobody: all in one process, each with a connection of its own.
//
//   count=N           how many; they are called r1, r2, ...
//   proxies=N,N       ports on 127.0.0.1; server i is registered at one of them, in turn
//   lease=S           seconds; each says anew every third of it that it is there
//   policies=N        server i serves policy i % N
//
// When all are registered it prints "registered", and from then on a line of JSON every 0.1 seconds: how many renewals
// were acknowledged, and how many connections were lost. An answer that is no acknowledgement ends it with exit code 1.

#include "common.h"

// How often it looks whether a renewal is due, in milliseconds.
#define TICK 10
// Nobody connects to these: no packets are sent.
#define FIRST_PORT 10000

struct registrant {
    int fd;
    long number, sent, answered;
    int64_t due;
    struct bytes in, out;
    struct scan scan;
};

static int poll_fd, count, proxies[256], proxy_count;
static long registered, renewals, lost;
static double lease;
static struct registrant *registrants;

static void read_proxies(void) {
    const char *p = text_option("proxies", "");
    while (*p && proxy_count < 256) {
        char *end;
        proxies[proxy_count++] = strtol(p, &end, 10);
        if (end == p) die(USAGE, "proxies=%s: these are no ports", text_option("proxies", ""));
        p = end + (*end == ',');
    }
    if (!proxy_count) die(USAGE, "proxies=N,N is missing");
}

static void lose(struct registrant *r) {
    close(r->fd);
    r->fd = -1;
    lost++;
}

static void say(struct registrant *r) {
    append_text(&r->out,
                "{\"type\": \"1\", \"id\": \"r%ld\", \"privPolyId\": \"%d\", \"listenport\": \"%ld\", \"pipeline\": 16, "
                "\"connections\": 1, \"lease\": %g}\n",
                r->number, policy_name(r->number % policies), FIRST_PORT + r->number, lease);
    r->sent++;
    // So little is always taken at once, unless the proxy hangs.
    if (write_some(r->fd, &r->out) < 0) lose(r);
}

static void receive(struct registrant *r) {
    size_t length;
    bool over = read_some(r->fd, &r->in) < 0;
    while (r->in.from < r->in.to && (length = object_length(&r->scan, r->in.at + r->in.from, r->in.to - r->in.from))) {
        struct text answer = {r->in.at + r->in.from, length};
        if (length == NO_OBJECT || !is(field(answer, "type"), "2") || r->answered == r->sent ||
            number(field(answer, "destid"), "r") != r->number)
            die(WRONG_ANSWER, "wrong answer to server r%ld: %.*s", r->number, SHOWN(r->in.to - r->in.from), answer.at);
        r->in.from += length;
        if (r->answered++) renewals++;
        else registered++;
    }
    if (over) lose(r);
}

static void wait_a_turn(void) {
    struct epoll_event events[256];
    int happened = epoll_wait(poll_fd, events, 256, TICK);
    for (int i = 0; i < happened; i++) receive(events[i].data.ptr);
}

static void renew(int64_t t) {
    for (struct registrant *r = registrants; r < registrants + count; r++) {
        if (r->fd < 0 || r->due > t) continue;
        r->due += lease / 3 * SECOND;
        say(r);
    }
}

int main(int n, char **values) {
    read_arguments(n, values);
    read_message_arguments();
    read_proxies();
    count = option("count", 1);
    lease = option("lease", 15);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    registrants = calloc(count, sizeof *registrants);
    if (!registrants) die(TROUBLE, "out of memory");
    for (int i = 0; i < count; i++) {
        struct registrant *r = &registrants[i];
        *r = (struct registrant){.number = i + 1, .fd = dial(proxies[i % proxy_count])};
        watch(poll_fd, EPOLL_CTL_ADD, r->fd, true, false, r);
        say(r);
        // They come one after the other, and renew at times that are spread as evenly as those of servers that were
        // started at any time.
        double part = i * 0.6180339887;
        r->due = now() + (part - (long)part) * lease / 3 * SECOND;
        while (i % 50 == 49 && registered <= i && !lost) wait_a_turn();
    }
    while (registered < count && !lost) wait_a_turn();
    if (lost) die(WRONG_ANSWER, "no answer: %ld connections were lost before all were registered", lost);
    puts("registered");
    for (int64_t next = now();;) {
        wait_a_turn();
        int64_t t = now();
        renew(t);
        if (t < next) continue;
        printf("{\"renewals\": %ld, \"lost\": %ld}\n", renewals, lost);
        fflush(stdout);
        next = t + SECOND / 10;
    }
}

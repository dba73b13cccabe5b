// Pool servers, all in one process: each listens on a port of its own and answers every packet with its payload.
//
//   count=N           how many; they are called s<first>, and so on, with first=1 unless set
//   policies=N        and groups=N: the servers of a group serve its policies, see common.h. With only=J they all serve
//                     policy J (from 0) alone
//   proxy=PORT        register with this one, for every policy; without it nobody
//   setup=TEXT        what is added to the setup packets
//   http=1            packets are the bodies of HTTP/1.1 requests
//   mute=1            accept connections, but neither read nor answer
//   anywhere=1        listen at all addresses, not on 127.0.0.1 alone
//   spoil=N           give each N-th packet the answer to the one before: to see that it is noticed
//
// When all are registered it prints their ports as JSON; and at each SIGUSR1, as JSON, how many packets came from which
// port of a proxy's so far. A packet for a policy that its server doesn't serve ends it
// with exit code 1.

#include "common.h"

struct connection {
    int fd, server, peer;
    struct bytes in, out;
    struct scan scan;
    bool writing;
};

static int poll_fd, count, first, only;
static bool http, mute, anywhere;
static long packets_from[1 << 16];
static volatile sig_atomic_t asked;
static long spoil, answers;
static int *listeners, *ports;

static bool serves(int server, int policy) {
    return only >= 0 ? policy == only : policy < policies && policy % groups == (first + server - 1) % groups;
}

static void open_ports(void) {
    listeners = calloc(count, sizeof *listeners);
    ports = calloc(count, sizeof *ports);
    for (int i = 0; i < count; i++) {
        struct sockaddr_in address = local(1, 0);
        socklen_t size = sizeof address;
        if (anywhere) address.sin_addr.s_addr = htonl(INADDR_ANY);
        int one = 1, fd = listeners[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (fd < 0 || bind(fd, (void *)&address, size) || listen(fd, 1024) || getsockname(fd, (void *)&address, &size))
            die(TROUBLE, "can't listen: %s", strerror(errno));
        ports[i] = ntohs(address.sin_port);
        watch(poll_fd, EPOLL_CTL_ADD, fd, true, false, &listeners[i]);
    }
}

// Waits until the proxy has read everything: it answers a packet for a policy that nobody serves in its turn, after the
// setup packets, and before it only those that it refuses.
static void wait_until_read(int fd, struct bytes *out) {
    struct bytes in = {0};
    struct scan scan = {0};
    int64_t limit = now() + 20 * SECOND;
    append_text(out, "{\"type\": \"0\", \"srcid\": \"c0\", \"privPoliId\": \"nobody\", \"payload\": \"\"}");
    while (now() < limit) {
        if (write_some(fd, out) < 0 || read_some(fd, &in) < 0)
            die(TROUBLE, "the proxy closed the connection of the setup packets");
        size_t n = in.to > in.from ? object_length(&scan, in.at + in.from, in.to - in.from) : 0;
        struct text answer = {in.at + in.from, n};
        if (n && n != NO_OBJECT && is(field(answer, "error"), "no-server") && is(field(answer, "destid"), "c0")) return;
        if (n) die(TROUBLE, "the proxy refuses the setup packets: %.*s", (int)(in.to - in.from), in.at + in.from);
        usleep(500);
    }
    die(TROUBLE, "the proxy doesn't read the setup packets");
}

static void register_with(int proxy, const char *setup) {
    struct bytes out = {0};
    int fd = dial(proxy);
    for (int i = 0; i < count; i++)
        for (int policy = 0; policy < (only >= 0 ? only + 1 : policies); policy++)
            if (serves(i, policy))
                append_text(&out,
                            "{\"type\": \"1\", \"id\": \"s%d\", \"privPolyId\": \"%d\", \"listenport\": \"%d\"%s%s}\n",
                            first + i, policy_name(policy), ports[i], *setup ? ", " : "", setup);
    wait_until_read(fd, &out);
    close(fd);
}

static void answer(struct connection *c, struct text packet) {
    static char last[256];
    struct text client = field(packet, "srcid"), payload = field(packet, "payload"),
                policy = field(packet, "privPoliId");
    if (!client.at || !payload.at || !serves(c->server, number(policy, "") / 111 - 1))
        die(WRONG_ANSWER, "wrong packet: server s%d doesn't serve its policy: %.*s", first + c->server,
            SHOWN(packet.n), packet.at);
    packets_from[c->peer]++;
    struct text given = payload;
    if (spoil && ++answers % spoil == 0) given = (struct text){last, strlen(last)};
    append_answer(&c->out, first + c->server, client, given, http);
    if (spoil) snprintf(last, sizeof last, "%.*s", (int)payload.n, payload.at);
}

static bool receive(struct connection *c) {
    if (read_some(c->fd, &c->in) < 0) return false;
    while (c->in.from < c->in.to) {
        const char *p = c->in.at + c->in.from;
        size_t n = c->in.to - c->in.from;
        struct text packet = {p, 0};
        size_t length = http ? http_length(p, n, &packet) : object_length(&c->scan, p, n);
        if (length == NO_OBJECT)
            die(WRONG_ANSWER, "wrong packet: this is no JSON object: %.*s", SHOWN(n), p);
        if (!length) break;
        if (!http) packet.n = length;
        answer(c, packet);
        c->in.from += length;
    }
    return true;
}

static bool flush(struct connection *c) {
    int written = write_some(c->fd, &c->out);
    if (written >= 0 && c->writing == (written == 1)) {
        c->writing = !c->writing;
        watch(poll_fd, EPOLL_CTL_MOD, c->fd, true, c->writing, c);
    }
    return written >= 0;
}

static void drop(struct connection *c) {
    close(c->fd);
    free(c->in.at);
    free(c->out.at);
    free(c);
}

static void accept_all(int server) {
    int one = 1, fd;
    struct sockaddr_in peer;
    socklen_t size = sizeof peer;
    while ((fd = accept4(listeners[server], (void *)&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c) die(TROUBLE, "out of memory");
        c->fd = fd;
        c->server = server;
        c->peer = ntohs(peer.sin_port);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (!mute) watch(poll_fd, EPOLL_CTL_ADD, fd, true, false, c);
    }
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) die(TROUBLE, "can't accept: %s", strerror(errno));
}

static void ask(int number) {
    (void)number;
    asked = 1;
}

static void tell(void) {
    const char *separator = "";
    asked = 0;
    printf("{");
    for (int port = 0; port < 1 << 16; port++) {
        if (!packets_from[port]) continue;
        printf("%s\"%d\": %ld", separator, port, packets_from[port]);
        separator = ", ";
    }
    puts("}");
    fflush(stdout);
}

int main(int n, char **values) {
    read_arguments(n, values);
    read_message_arguments();
    signal(SIGUSR1, ask);
    count = option("count", 4);
    first = option("first", 1);
    only = option("only", -1);
    http = option("http", 0);
    mute = option("mute", 0);
    anywhere = option("anywhere", 0);
    spoil = option("spoil", 0);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    open_ports();
    if (option("proxy", 0))
        register_with(option("proxy", 0), text_option("setup", "\"pipeline\": 128, \"connections\": 1"));
    printf("{\"ports\": [");
    for (int i = 0; i < count; i++) printf("%s%d", i ? ", " : "", ports[i]);
    puts("]}");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[256];
        int happened = epoll_wait(poll_fd, events, 256, 100);
        if (asked) tell();
        for (int i = 0; i < happened; i++) {
            int *listener = events[i].data.ptr;
            struct connection *c = events[i].data.ptr;
            if (listener >= listeners && listener < listeners + count) {
                accept_all(listener - listeners);
                continue;
            }
            // One that is dropped is not among the further events: each is there once.
            if (!((events[i].events & ~EPOLLOUT) ? receive(c) && flush(c) : flush(c))) drop(c);
        }
    }
}

// The same work through NATS, as far as it goes: clients publish their packets to the subject of a policy, each policy
// has a queue group of two workers, and the answer goes to the client's inbox. Clients and workers are in this process.
//
//   port=N            the NATS server's, on 127.0.0.1
//   pids=, seconds=, warmup=, connections=, depth=, payload=, policies=    as in load.c
//
// Every answer is checked as in load.c but for the order: NATS promises none among the workers of a group, so each
// answer is matched by the number in its inbox, and must come once.

#include "gauge.h"

#define RING 4096

struct peer {
    int fd;
    // Of a worker: which server it is, and the policy that it serves. A client has server 0.
    int server, policy;
    long number, sent;
    // Which message is in flight in each place, plus 1; 0 if none is.
    long *awaited;
    int64_t *since;
    struct bytes in, out;
    bool writing;
};

static int poll_fd, port;
static long in_flight, greetings;

static void flush(struct peer *p) {
    int written = write_some(p->fd, &p->out);
    if (written < 0) die(WRONG_ANSWER, "no answer: the NATS server closed a connection");
    if (p->writing == (written == 1)) {
        p->writing = !p->writing;
        watch(poll_fd, EPOLL_CTL_MOD, p->fd, true, p->writing, p);
    }
}

static struct peer *add_peer(int server, int policy, long number) {
    struct peer *p = calloc(1, sizeof *p);
    *p = (struct peer){.fd = dial(port), .server = server, .policy = policy, .number = number};
    watch(poll_fd, EPOLL_CTL_ADD, p->fd, true, false, p);
    append_text(&p->out, "CONNECT {\"verbose\":false}\r\n");
    if (server) append_text(&p->out, "SUB packets.%d workers 1\r\n", policy_name(policy));
    else append_text(&p->out, "SUB inbox.%ld.* 1\r\n", number);
    append_text(&p->out, "PING\r\n");
    greetings++;
    flush(p);
    return p;
}

static void ask(struct peer *p) {
    static struct bytes packet;
    long message = p->sent++, place = message % RING;
    int policy = (p->number + message) % policies;
    if (p->awaited[place])
        die(WRONG_ANSWER, "no answer to message %ld of client c%ld", p->awaited[place] - 1, p->number);
    p->awaited[place] = message + 1;
    p->since[place] = now();
    in_flight++;
    packet.from = packet.to = 0;
    append_packet(&packet, p->number, message, policy, false);
    append_text(&p->out, "PUB packets.%d inbox.%ld.%ld %zu\r\n", policy_name(policy), p->number, message, packet.to);
    append(&p->out, packet.at, packet.to);
    append(&p->out, "\r\n", 2);
}

static void work(struct peer *p, const char *subject, const char *inbox, struct text packet) {
    static struct bytes answer;
    if (number((struct text){subject, strlen(subject)}, "packets.") != policy_name(p->policy) ||
        number(field(packet, "privPoliId"), "") != policy_name(p->policy))
        die(WRONG_ANSWER, "wrong packet: a worker of policy %d got it from %s: %.*s", policy_name(p->policy), subject,
            SHOWN(packet.n), packet.at);
    answer.from = answer.to = 0;
    append_answer(&answer, p->server, field(packet, "srcid"), field(packet, "payload"), false);
    append_text(&p->out, "PUB %s %zu\r\n", inbox, answer.to);
    append(&p->out, answer.at, answer.to);
    append(&p->out, "\r\n", 2);
}

static void take_answer(struct peer *p, const char *subject, struct text answer, bool more) {
    long client = -1, message = -1;
    if (sscanf(subject, "inbox.%ld.%ld", &client, &message) != 2 || client != p->number || message < 0 ||
        p->awaited[message % RING] != message + 1)
        die(WRONG_ANSWER, "wrong answer to client c%ld, which doesn't await %s: %.*s", p->number, subject,
            SHOWN(answer.n), answer.at);
    check(answer, client, message, (client + message) % policies);
    p->awaited[message % RING] = 0;
    note_answer(p->since[message % RING]);
    in_flight--;
    if (more) ask(p);
}

// Takes one line of the protocol, and what belongs to it; false if it isn't all there.
static bool take_line(struct peer *p, bool more) {
    char line[512], subject[128], inbox[128];
    const char *from = p->in.at + p->in.from, *line_end = memmem(from, p->in.to - p->in.from, "\r\n", 2);
    size_t size = 0;
    if (!line_end) return false;
    snprintf(line, sizeof line, "%.*s", (int)(line_end - from), from);
    struct text body = {line_end + 2, 0};
    if (!strncmp(line, "MSG ", 4)) {
        int found = p->server ? sscanf(line, "MSG %127s %*s %127s %zu", subject, inbox, &size) - 1
                              : sscanf(line, "MSG %127s %*s %zu", subject, &size);
        if (found != 2) die(WRONG_ANSWER, "the NATS server said: %s", line);
        body.n = size;
        size += 2;
        if (body.at + size > p->in.at + p->in.to) return false;
    }
    p->in.from += line_end + 2 - from + size;
    if (size && p->server) work(p, subject, inbox, body);
    else if (size) take_answer(p, subject, body, more);
    else if (!strcmp(line, "PING")) append_text(&p->out, "PONG\r\n");
    else if (!strcmp(line, "PONG")) greetings--;
    else if (strncmp(line, "INFO ", 5)) die(WRONG_ANSWER, "the NATS server said: %s", line);
    return true;
}

static void wait_a_turn(bool more) {
    struct epoll_event events[256];
    int count = epoll_wait(poll_fd, events, 256, 20);
    for (int i = 0; i < count; i++) {
        struct peer *p = events[i].data.ptr;
        if (read_some(p->fd, &p->in) < 0) die(WRONG_ANSWER, "no answer: the NATS server closed a connection");
        while (p->in.from < p->in.to && take_line(p, more)) continue;
        flush(p);
    }
}

int main(int count, char **values) {
    read_arguments(count, values);
    read_message_arguments();
    port = option("port", 0);
    int connections = option("connections", 50), depth = option("depth", 1);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    groups = policies;
    for (int i = 0; i < 2 * policies; i++) add_peer(i + 1, i % policies, 0);
    struct peer **clients = calloc(connections, sizeof *clients);
    for (int i = 0; i < connections; i++) {
        clients[i] = add_peer(0, 0, i);
        clients[i]->awaited = calloc(RING, sizeof(long));
        clients[i]->since = calloc(RING, sizeof(int64_t));
    }
    int64_t limit = now() + 20 * SECOND;
    while (greetings) {
        if (now() > limit) die(TROUBLE, "the NATS server doesn't greet");
        wait_a_turn(false);
    }
    start_measuring();
    for (int i = 0; i < connections; i++) {
        for (int j = 0; j < depth; j++) ask(clients[i]);
        flush(clients[i]);
    }
    for (bool more; (more = go_on()) || in_flight;) wait_a_turn(more);
    report();
    return 0;
}

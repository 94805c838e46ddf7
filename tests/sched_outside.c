/* SPDX-License-Identifier: Apache-2.0 */
/* What happens to a network from outside: work, second thoughts, failures, nonsense. */
#include "sched_pair.h"

static void add_work(struct net *net, struct net_sender *s)
{
    uint32_t piece = net_rnd(net, NET_PIECES);
    struct net_work *w = &net->works[net->n_works];
    uint64_t deadline_ns = net_rnd(net, 2) ? 0 : net->now_ns + net_rnd(net, 5000);

    if (net->n_works == net->config.n_works || s->pieces[piece].state != NET_P_FREE)
        return;
    *w = (struct net_work){.sender = s->index,
                           .receiver = net_rnd(net, net->config.n_receivers),
                           .n_chunks = net_rnd(net, NET_CHUNKS + 1),
                           .priority = (int32_t)net_rnd(net, 4) - 1};
    s->pieces[piece] = (struct net_piece){.state = NET_P_ADDED,
                                          .work = net->n_works++,
                                          .deadline_ns = deadline_ns ? deadline_ns : UINT64_MAX};
    kvfi_send_piece_add(s->sched, piece, w->receiver, w->n_chunks, w->priority, deadline_ns);
    net_note(net, "s%u piece %u is work %u of %u chunks for r%u", s->index, piece, net->n_works - 1,
             w->n_chunks, w->receiver);
}

void net_make_ready(struct net *net, uint32_t sender, uint32_t piece)
{
    struct net_sender *s = &net->senders[sender];

    s->pieces[piece].state = NET_P_READY;
    s->pieces[piece].ready_order = ++net->order;
    net_note(net, "s%u ready %u", sender, piece);
    kvfi_send_piece_ready(s->sched, piece, net->now_ns);
    watch_send_busy(s);
}

static void remove_work(struct net *net, struct net_sender *s)
{
    uint32_t piece = net_rnd(net, NET_PIECES);
    struct net_piece *p = &s->pieces[piece];

    if (p->state != NET_P_ADDED && p->state != NET_P_READY)
        return;
    p->state = NET_P_REMOVED;
    net->works[p->work].removed = true;
    net_note(net, "s%u removes %u", s->index, piece);
    watch_send_removed(s);
    kvfi_send_piece_remove(s->sched, piece, net->now_ns);
    watch_send_busy(s);
}

static void fail_link(struct net *net, struct net_sender *s)
{
    uint32_t receiver = net_rnd(net, net->config.n_receivers);
    uint32_t link = net_rnd(net, net->config.n_links);
    struct net_receiver *r = &net->receivers[receiver];

    if (net_rnd(net, 2)) {
        if (s->links[receiver][link].state != NET_L_UP)
            return;
        net_note(net, "s%u loses link %u to r%u", s->index, link, receiver);
        net_send_link_down(s, receiver, link);
        net_post_link(net, &net->forth[s->index][receiver], NET_LINK_FAILED, link,
                      s->links[receiver][link].epoch);
        watch_send_busy(s);
    } else {
        if (!r->links[s->index][link].up)
            return;
        net_note(net, "r%u loses link %u to s%u", receiver, link, s->index);
        net_recv_link_down(r, s->index, link);
        net_post_link(net, &net->back[s->index][receiver], NET_LINK_FAILED, link,
                      r->links[s->index][link].epoch);
        watch_recv_busy(r);
    }
}

/* Ids that cannot be: of no peer, no link, another epoch, or far from any seq in use. */
static void speak_nonsense(struct net *net, struct net_sender *s)
{
    uint32_t receiver = net_rnd(net, net->config.n_receivers);
    struct net_receiver *r = &net->receivers[receiver];
    struct net_message m = {
        .kind = (enum net_message_kind)net_rnd(net, NET_GO + 1),
        .cargo = {.bytes = 1, .n_runs = 1, .runs = {{.n_chunks = 1, .bytes = 1}}}};

    m.cargo.id = (struct kvfi_batch_id){
        .link = net_rnd(net, net->config.n_links + 2), .epoch = net_rnd(net, 4), .seq = 1u << 30};
    if (net->n_works == 0)
        return;
    net_receiver_refuses(r, net_rnd(net, 4) ? s->index : NET_ENDS + 1, &m);
    m.kind = net_rnd(net, 2) ? NET_GRANT : NET_DELIVERED;
    net_sender_refuses(s, net_rnd(net, 4) ? receiver : UINT32_MAX, &m);
}

void net_outside(struct net *net)
{
    struct net_sender *s = &net->senders[net_rnd(net, net->config.n_senders)];
    uint32_t what = net_rnd(net, 10);

    if (net_rnd(net, 100) >= net->config.faults) {
        add_work(net, s);
    } else if (what < 4) {
        remove_work(net, s);
    } else if (what < 5) {
        if (net->n_works)
            net->works[net_rnd(net, net->n_works)].ended = true;
    } else if (what < 7) {
        fail_link(net, s);
    } else if (what < 8) {
        s->held = !s->held;
        kvfi_send_hold(s->sched, s->held, net->now_ns);
        watch_send_busy(s);
    } else {
        speak_nonsense(net, s);
    }
}

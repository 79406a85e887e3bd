//! Who is connected, and the body of each stream. All of it is on one thread, so nothing is locked.

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use serde::Deserialize;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, Interval, interval_at};

const BUFFER: usize = 10; // messages per client
const HEARTBEAT: &[u8] = b"event: heartbeat\ndata: {}\n\n";

type OfUser = Vec<(u64, Sender<Bytes>)>;

thread_local! {
    static CLIENTS: RefCell<HashMap<u64, OfUser>> = RefCell::default();
    static JOINED: Cell<u64> = const { Cell::new(0) };
    static DROPPED: Cell<u64> = const { Cell::new(0) };
}

#[derive(Deserialize)]
struct Head {
    user_id: u64,
}

/// Make the event's bytes once, however many clients get them. Returns whether any channel is full now.
pub fn deliver(payload: &[u8]) -> bool {
    let Ok(head) = serde_json::from_slice::<Head>(payload) else {
        return false;
    };
    let event = Bytes::from([b"data: ", payload, b"\n\n"].concat());
    CLIENTS.with_borrow(|clients| {
        let mut full = false;
        for (_, client) in clients.get(&head.user_id).into_iter().flatten() {
            match client.try_send(event.clone()) {
                Ok(()) => full |= client.capacity() == 0,
                Err(_) => DROPPED.set(DROPPED.get() + 1),
            }
        }
        full
    })
}

pub fn dropped() -> u64 {
    DROPPED.get()
}

/// The body of one stream. It leaves the clients when it is dropped.
pub struct Clients {
    user: u64,
    number: u64,
    greeting: Option<Bytes>,
    inbox: Receiver<Bytes>,
    heartbeat: Interval,
}

impl Clients {
    pub fn join(user: u64, period: Duration) -> Self {
        let (outbox, inbox) = channel(BUFFER);
        let number = JOINED.get();
        JOINED.set(number + 1);
        CLIENTS.with_borrow_mut(|clients| clients.entry(user).or_default().push((number, outbox)));
        let greeting = Some(format!("event: connected\ndata: {{\"user_id\":{user}}}\n\n").into());
        Self { user, number, greeting, inbox, heartbeat: interval_at(Instant::now() + period, period) }
    }
}

impl Stream for Clients {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(greeting) = self.greeting.take() {
            return Poll::Ready(Some(Ok(greeting)));
        }
        match self.inbox.poll_recv(context) {
            Poll::Ready(Some(first)) if self.inbox.is_empty() => return Poll::Ready(Some(Ok(first))),
            Poll::Ready(Some(first)) => {
                let mut joined = BytesMut::from(first); // what is queued leaves in one write
                while let Ok(next) = self.inbox.try_recv() {
                    joined.extend_from_slice(&next);
                }
                return Poll::Ready(Some(Ok(joined.freeze())));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        self.heartbeat.poll_tick(context).map(|_| Some(Ok(Bytes::from_static(HEARTBEAT))))
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        CLIENTS.with_borrow_mut(|clients| {
            let Some(of_user) = clients.get_mut(&self.user) else { return };
            of_user.retain(|(number, _)| *number != self.number);
            if of_user.is_empty() {
                clients.remove(&self.user);
            }
        });
    }
}

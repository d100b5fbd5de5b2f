//! The setters for handlers, alike on every builder.

/// Setters for handlers on a builder that has `fn and(self, next) -> Builder<Chain<E, Next>, ..>`.
macro_rules! event_setters {
    ($builder:ident<[$($extra:ident)?]>, $session:ty, $on_message:ident($message:ty), $on_message_ref:ident($message_ref:ty, $in_place:ident), $handler:ident,
        $(#[$message_doc:meta])*
    ) => {
        /// Adds a handler with state, instead of or besides closures. It is asked behind
        /// those that are there, and so is each closure: of one event there may be several.
        pub fn handler<H: $handler>(self, handler: H) -> $builder<Chain<E, Adapter<H>> $(, $extra)?> {
            self.and(Adapter(handler))
        }

        /// Runs for each new connection, before its first message.
        pub fn on_connected<H, Fut>(self, handler: H) -> $builder<Chain<E, OnConnected<H>> $(, $extra)?>
        where
            H: Fn($session) -> Fut + Send + Sync + 'static,
            Fut: Future<Output: IntoHandlerOutcome> + Send + 'static,
        {
            self.and(OnConnected(handler))
        }

        $(#[$message_doc])*
        pub fn $on_message<H, Fut>(self, handler: H) -> $builder<Chain<E, OnMessage<H>> $(, $extra)?>
        where
            H: Fn($session, $message) -> Fut + Send + Sync + 'static,
            Fut: Future<Output: IntoHandlerOutcome> + Send + 'static,
        {
            self.and(OnMessage(handler))
        }

        /// Runs for each message before the handlers that own it, with the message where it lies in the read buffer: no
        /// reference is counted and nothing copied. [`Handled::Done`](storm_core::Handled::Done) ends the handling of the
        /// message, [`Handled::Pass`](storm_core::Handled::Pass) hands it on. It must not block; see
        /// [`Session::try_send_ref`](storm_core::Session::try_send_ref) for how to answer.
        pub fn $on_message_ref<H>(self, handler: H) -> $builder<Chain<E, $in_place<H>> $(, $extra)?>
        where
            H: Fn(&$session, $message_ref) -> Handled + Send + Sync + 'static,
        {
            self.and($in_place(handler))
        }

        /// Runs once for each connection, when it has ended. It is still among the sessions and in its groups.
        pub fn on_disconnected<H, Fut>(self, handler: H) -> $builder<Chain<E, OnDisconnected<H>> $(, $extra)?>
        where
            H: Fn($session, DisconnectReason) -> Fut + Send + Sync + 'static,
            Fut: Future<Output: IntoHandlerOutcome> + Send + 'static,
        {
            self.and(OnDisconnected(handler))
        }

        /// Runs for what needs a person; without a session if there is none.
        pub fn on_error<H, Fut>(self, handler: H) -> $builder<Chain<E, OnError<H>> $(, $extra)?>
        where
            H: Fn(Option<$session>, Error) -> Fut + Send + Sync + 'static,
            Fut: Future + Send + 'static,
        {
            self.and(OnError(handler))
        }
    };
}
pub(crate) use event_setters;

//! Setters that servers, clients and their options have alike.

/// Setters for the options of sessions, on whatever has them at `$at`.
#[doc(hidden)]
#[macro_export]
macro_rules! session_setters {
    ($($at:ident).*) => {
        /// Sets [`SessionOptions::max_pending_send_bytes`](storm_core::SessionOptions::max_pending_send_bytes).
        pub fn max_pending_send_bytes(mut self, bytes: impl Into<Option<usize>>) -> Self {
            self.$($at.)*max_pending_send_bytes = bytes.into();
            self
        }

        /// Sets [`SessionOptions::max_pending_receive_bytes`](storm_core::SessionOptions::max_pending_receive_bytes).
        pub fn max_pending_receive_bytes(mut self, bytes: impl Into<Option<usize>>) -> Self {
            self.$($at.)*max_pending_receive_bytes = bytes.into();
            self
        }

        /// Sets [`SessionOptions::slow_consumer_policy`](storm_core::SessionOptions::slow_consumer_policy).
        pub fn slow_consumer_policy(mut self, policy: $crate::SlowConsumerPolicy) -> Self {
            self.$($at.)*slow_consumer_policy = policy;
            self
        }

        /// Sets [`SessionOptions::send_budget`](storm_core::SessionOptions::send_budget).
        pub fn send_budget(mut self, budget: impl Into<Option<$crate::SendBudget>>) -> Self {
            self.$($at.)*send_budget = budget.into();
            self
        }

        /// Sets [`SessionOptions::close_deadline`](storm_core::SessionOptions::close_deadline).
        pub fn close_deadline(mut self, deadline: std::time::Duration) -> Self {
            self.$($at.)*close_deadline = deadline;
            self
        }

        /// Sets [`SessionOptions::idle_timeout`](storm_core::SessionOptions::idle_timeout).
        pub fn idle_timeout(mut self, timeout: impl Into<Option<std::time::Duration>>) -> Self {
            self.$($at.)*idle_timeout = timeout.into();
            self
        }
    };
}

/// Setters for handlers on a builder that has `fn and(self, next) -> Builder<$crate::events::Chain<E, Next>, ..>`.
#[doc(hidden)]
#[macro_export]
macro_rules! event_setters {
    ($builder:ident<[$($extra:ident)?]>, $session:ty, $on_message:ident($message:ty),
        $on_message_ref:ident($message_ref:ty, $in_place:ident), $handler:ident,
        $(#[$message_doc:meta])*
    ) => {
        /// Adds a handler with state, instead of or besides closures. It is asked behind
        /// those that are there, and so is each closure: of one event there may be several.
        pub fn handler<H: $handler>(
            self,
            handler: H,
        ) -> $builder<$crate::events::Chain<E, $crate::events::Adapter<H>> $(, $extra)?> {
            self.and($crate::events::Adapter(handler))
        }

        /// Runs for each new session, before its first message.
        pub fn on_connected<H, Fut>(
            self,
            handler: H,
        ) -> $builder<$crate::events::Chain<E, $crate::events::OnConnected<H>> $(, $extra)?>
        where
            H: Fn($session) -> Fut + Send + Sync + 'static,
            Fut: Future<Output: $crate::IntoHandlerOutcome> + Send + 'static,
        {
            self.and($crate::events::OnConnected(handler))
        }

        $(#[$message_doc])*
        pub fn $on_message<H, Fut>(
            self,
            handler: H,
        ) -> $builder<$crate::events::Chain<E, $crate::events::OnMessage<H>> $(, $extra)?>
        where
            H: Fn($session, $message) -> Fut + Send + Sync + 'static,
            Fut: Future<Output: $crate::IntoHandlerOutcome> + Send + 'static,
        {
            self.and($crate::events::OnMessage(handler))
        }

        /// Runs for each message before the handlers that own it, with the message where it lies in the read buffer: no
        /// reference is counted and nothing copied. [`Handled::Done`](storm_core::Handled::Done) ends the handling of the
        /// message, [`Handled::Pass`](storm_core::Handled::Pass) hands it on. It must not block; see
        /// [`Session::try_send_ref`](storm_core::Session::try_send_ref) for how to answer.
        pub fn $on_message_ref<H>(
            self,
            handler: H,
        ) -> $builder<$crate::events::Chain<E, $crate::events::$in_place<H>> $(, $extra)?>
        where
            H: Fn(&$session, $message_ref) -> $crate::Handled + Send + Sync + 'static,
        {
            self.and($crate::events::$in_place(handler))
        }

        /// Runs once for each session that was connected, when it has ended. It is still among the sessions and in its groups:
        /// leave them here before telling who is left.
        pub fn on_disconnected<H, Fut>(
            self,
            handler: H,
        ) -> $builder<$crate::events::Chain<E, $crate::events::OnDisconnected<H>> $(, $extra)?>
        where
            H: Fn($session, $crate::DisconnectReason) -> Fut + Send + Sync + 'static,
            Fut: Future<Output: $crate::IntoHandlerOutcome> + Send + 'static,
        {
            self.and($crate::events::OnDisconnected(handler))
        }

        /// Runs for what needs a person; without a session if there is none.
        pub fn on_error<H, Fut>(
            self,
            handler: H,
        ) -> $builder<$crate::events::Chain<E, $crate::events::OnError<H>> $(, $extra)?>
        where
            H: Fn(Option<$session>, $crate::Error) -> Fut + Send + Sync + 'static,
            Fut: Future + Send + 'static,
        {
            self.and($crate::events::OnError(handler))
        }
    };
}

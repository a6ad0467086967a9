//! Phase `response`: what packs make of an answer before the caller gets it.

use super::ask::{Answered, Chain, Question};
use super::picks::{denied, with_body_fields};
use super::{Picks, Ring};
use crate::facts::PackFact;
use crate::respond::Reply;
use crate::trace::Trace;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use model::document::PhaseName;
use model::rollout::Outcome;
use model::{Decision, Edits, Reject};
use pack_host::PolicyResponse;
use std::sync::Arc;

/// The body of an answer, as far as it is at hand.
#[derive(Debug)]
pub enum AnswerBody {
    /// All of it.
    Whole(Bytes),
    /// There is none: the answer to HEAD, a 204 or a 304.
    None,
    /// It streams: nobody reads it, or it is larger than is held for who does.
    Streaming,
}

/// What becomes of an answer.
#[derive(Debug)]
pub enum Responded {
    /// These changes.
    Edited(Edits),
    /// This one takes its place.
    Replaced(Box<Reply>),
}

impl Picks {
    /// What becomes of the answer, each seeing it as those before left it: everybody's first, then the tenant's. `headers` are
    /// those that the caller would get.
    pub fn on_response(
        &self,
        status: StatusCode,
        headers: HeaderMap,
        body: AnswerBody,
        (trace, now): (&Trace, i64),
        said: &mut Vec<PackFact>,
    ) -> Result<Responded, Reject> {
        let chain = Chain::begin(&self.tenant, trace, now);
        let (body, is_withheld) = match body {
            AnswerBody::Whole(bytes) => (Some(bytes), false),
            AnswerBody::None => (None, false),
            AnswerBody::Streaming => (None, true),
        };
        let response = Arc::new(PolicyResponse { status, headers: Arc::new(headers), body });
        let mut answered = Answered { response, is_withheld };
        let mut responded = Responded::Edited(Edits::default());
        let of = |ring| {
            let speaking = self.speaking(PhaseName::Response);
            speaking.filter(move |pick| pick.attachment.ring == ring)
        };
        for pick in of(Ring::Everybodys).chain(of(Ring::Tenants)) {
            let spoken = self.consult(pick, Question::Response(&answered), &chain, said);
            match spoken.outcome {
                _ if !pick.acts() => {}
                Outcome::Decided(Decision::Edit(mut edits)) => {
                    // Where no body can be, none is put.
                    edits.body = edits.body.filter(|_| answered.response.body.is_some());
                    let edits = with_body_fields(edits);
                    answered.apply(&edits);
                    responded.edit(edits);
                }
                Outcome::Decided(Decision::Deny(denial)) => {
                    return Err(denied(&pick.attachment.id, denial));
                }
                Outcome::Decided(Decision::Answer(answer)) => {
                    let reply = Reply::by_pack(answer);
                    answered = Answered::of(&reply);
                    responded = Responded::Replaced(Box::new(reply));
                }
                Outcome::Failed(_) => pick.failed(&spoken)?,
                Outcome::Decided(Decision::Continue) | Outcome::Cost(_) => {}
            }
        }
        Ok(responded)
    }
}

impl Responded {
    fn edit(&mut self, edits: Edits) {
        match self {
            Self::Edited(all) => all.extend(edits),
            Self::Replaced(reply) => {
                edits.apply(&mut reply.headers);
                if let Some(body) = edits.body {
                    reply.body = body;
                }
            }
        }
    }
}

impl Answered {
    /// A pack's own answer, as the next one sees it.
    fn of(reply: &Reply) -> Self {
        let response = PolicyResponse {
            status: reply.status,
            headers: Arc::new(reply.headers.clone()),
            body: Some(reply.body.clone()),
        };
        Self { response: Arc::new(response), is_withheld: false }
    }

    fn apply(&mut self, edits: &Edits) {
        let response = Arc::make_mut(&mut self.response);
        edits.apply(Arc::make_mut(&mut response.headers));
        if let Some(body) = &edits.body {
            response.body = Some(body.clone());
        }
    }
}

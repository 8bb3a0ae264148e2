//! A client's requests: whether they are answered, and what is logged of them.

use core::net::IpAddr;

use sarab_http::{Exchange, HttpDate, Refusal, Request, Response, Service};
use sarab_site::BlockDevice;

use crate::clients::Visit;
use crate::content::Body;
use crate::log::Log;
use crate::pages::Pages;

/// The pages for one client.
pub struct Session<'a, D: BlockDevice> {
    pub pages: &'a Pages<D>,
    pub log: Option<&'a Log>,
    pub client: IpAddr,
    pub visit: Visit<'a>,
}

impl<D: BlockDevice> Service for Session<'_, D> {
    type Content<'a>
        = Body<'a, D>
    where
        Self: 'a;

    async fn answer(&self, request: &Request<'_>) -> Response<Body<'_, D>> {
        if !self.visit.request(self.pages.host.now()) {
            return self.pages.too_many();
        }
        self.pages.answer(request).await
    }

    fn refuse(&self, refusal: Refusal) -> Response<Body<'_, D>> {
        self.pages.refuse(refusal)
    }

    fn date(&self) -> Option<HttpDate> {
        self.pages.date()
    }

    fn answered(&self, exchange: &Exchange<'_>) {
        if let Some(log) = self.log {
            log.add(self.client, exchange, self.pages.host.now(), self.pages.now(), &self.pages.counters);
        }
    }
}

//! ApiVersions: what is served. Asked in a version from the future, it answers in version 0 with error 35, which every client
//! can read (KIP-511). Supported features are left out: an empty tagged field trips old librdkafka.

use super::call::{Call, Context, Step, advertised, answer, error};
use crate::kafka_wire::Api;
use crate::kafka_wire::messages::api_versions_response::ApiVersion;
use crate::kafka_wire::messages::{ApiVersionsRequest, ApiVersionsResponse};
use crate::model::Output;

/// UNSUPPORTED_VERSION
const UNSUPPORTED: i16 = 35;

struct Versions {
    unknown: bool,
}

pub(super) fn begin() -> Box<dyn Call> {
    Box::new(Versions { unknown: false })
}

/// For a version that is not spoken here.
pub(super) fn unknown() -> Box<dyn Call> {
    Box::new(Versions { unknown: true })
}

impl Call for Versions {
    fn poll(&mut self, cx: &Context<'_>, out: &mut Output) -> Step {
        let keys = Api::all().map(|api| {
            let (min, max) = advertised(api);
            ApiVersion::default()
                .with_api_key(api.key())
                .with_min_version(min)
                .with_max_version(max)
        });
        let mut response = ApiVersionsResponse::default().with_api_keys(keys.collect());
        if !self.unknown {
            return answer::<ApiVersionsRequest>(&response, cx, out);
        }
        response.error_code = error(cx, UNSUPPORTED);
        let cx = Context { version: 0, ..*cx };
        answer::<ApiVersionsRequest>(&response, &cx, out)
    }
}

//! What a browser gets on the same port: the page, a health check, and who may connect from a page.

use stormsocket::{Accept, AnswerError, HttpRequest, HttpResponse, Reject, StatusCode, UpgradeRequest};

/// Path, type, content.
const FILES: [(&str, &str, &str); 5] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("/main.js", "text/javascript; charset=utf-8", include_str!("page/main.js")),
    ("/plots.js", "text/javascript; charset=utf-8", include_str!("page/plots.js")),
    ("/lists.js", "text/javascript; charset=utf-8", include_str!("page/lists.js")),
];

/// The page talks to this server only; nothing else is allowed to it, and nobody may frame it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Answers a plain request.
pub(crate) fn answer(request: &HttpRequest) -> HttpResponse {
    let path = request.path();
    if path == "/health" {
        return HttpResponse::new(StatusCode::OK).text("ok\n");
    }
    match FILES.iter().find(|(name, ..)| *name == path) {
        Some((_, kind, content)) => {
            file(kind, content).unwrap_or_else(|_| HttpResponse::new(StatusCode::INTERNAL_SERVER_ERROR))
        }
        None => HttpResponse::new(StatusCode::NOT_FOUND).text("There is only one page: /\n"),
    }
}

fn file(kind: &str, content: &'static str) -> Result<HttpResponse, AnswerError> {
    HttpResponse::new(StatusCode::OK)
        .header("content-type", kind)?
        .header("content-security-policy", POLICY)?
        .header("x-content-type-options", "nosniff")?
        .header("referrer-policy", "no-referrer")?
        .header("cache-control", "no-cache")
        .map(|response| response.body(content))
}

/// Lets in programs, which send no origin, and this server's own page; not the pages of others, which would use their
/// visitors' browsers to get at a server these can reach.
#[expect(clippy::result_large_err, reason = "it is what the hook returns, once per connection")]
pub(crate) fn admit(request: &UpgradeRequest) -> Result<Accept, Reject> {
    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    match header("origin") {
        Some(origin) if !is_same(origin, header("host").unwrap_or_default()) => {
            Err(Reject::new(StatusCode::FORBIDDEN).text("only this server's own page may connect\n"))
        }
        _ => Ok(Accept::new()),
    }
}

fn is_same(origin: &str, host: &str) -> bool {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        assert!(is_same("http://localhost:8080", "localhost:8080"));
        assert!(is_same("https://Chat.example", "chat.example"));
        for other in
            ["null", "", "http://evil.example", "http://localhost:8080.evil.example", "ftp://localhost:8080"]
        {
            assert!(!is_same(other, "localhost:8080"), "{other}");
        }
    }

    #[test]
    fn the_page_loads_nothing_that_is_not_served() {
        let index = FILES[0].2;
        for part in index.split("src=\"").skip(1).chain(index.split("href=\"").skip(1)) {
            let target = part.split('"').next().unwrap_or_default();
            let served = FILES.iter().any(|(path, ..)| path.trim_start_matches('/') == target);
            assert!(served || target.starts_with("data:") || target.starts_with('#'), "{target}");
        }
    }
}

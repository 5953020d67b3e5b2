//! HTTP on a plain blocking socket, for what honest clients would never send; and answers compared with the OpenAPI
//! document.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use serde_json::Value;

/// One connection.
pub struct Http {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// One answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
}

impl Http {
    pub fn connect(address: SocketAddr, patience: Duration) -> Http {
        Http::try_connect(address, patience).expect("the door is open")
    }

    pub fn try_connect(address: SocketAddr, patience: Duration) -> io::Result<Http> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Http { stream, unread: Vec::new() })
    }

    #[track_caller]
    pub fn get(&mut self, target: &str) -> Response {
        self.request("GET", target, &[], b"")
    }

    pub fn try_get(&mut self, target: &str) -> io::Result<Response> {
        let request = format!("GET {target} HTTP/1.1\r\nhost: tested\r\n\r\n");
        self.stream.write_all(request.as_bytes())?;
        self.receive(false)
    }

    /// Sends a request and waits for its answer; the connection stays.
    #[track_caller]
    pub fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut request = format!("{method} {target} HTTP/1.1\r\nhost: tested\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            request.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        // One that is refused early may be closed while its body is being sent.
        let _ = self.stream.write_all(&[request.as_bytes(), body].concat());
        self.receive(method == "HEAD").unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    /// Sends bytes as they are. The door may have closed by then.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.set_write_timeout(Some(Duration::from_millis(500)));
        let _ = self.stream.write_all(bytes);
    }

    /// Tells the door that nothing more will come.
    pub fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).expect("an open socket");
    }

    /// The next answer; `without_body`: to HEAD.
    pub fn receive(&mut self, without_body: bool) -> io::Result<Response> {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            self.fill()?;
        };
        let head = String::from_utf8(self.unread[..end].to_vec()).map_err(io::Error::other)?;
        self.unread.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let status = status.ok_or_else(|| io::Error::other(head.clone()))?;
        let mut response = Response { status, headers, body: Vec::new() };
        let length: usize = response.header("content-length").map_or(0, |text| text.parse().unwrap_or(0));
        if !without_body {
            while self.unread.len() < length {
                self.fill()?;
            }
            response.body = self.unread.drain(..length).collect();
        }
        Ok(response)
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.unread.extend_from_slice(&buffer[..count]);
                Ok(())
            }
        }
    }

    /// Whether the other side has given the connection up; reads nothing.
    pub fn is_reset(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.stream.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: the kernel fills in one structure, which lives through the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        ready > 0 && poll.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
    }
}

/// A path segment of any bytes.
pub fn percent_encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02x}")).collect()
}

/// Compares answers with what the document says of their operation.
pub struct Checked {
    document: Value,
    used: BTreeSet<(String, String)>,
}

impl Checked {
    pub fn new(document: &Value) -> Checked {
        Checked { document: document.clone(), used: BTreeSet::new() }
    }

    /// Makes a request, and checks its answer: the status must be listed, the type too, and JSON fit the schema.
    #[track_caller]
    pub fn request(
        &mut self,
        http: &mut Http,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let response = http.request(method, target, headers, body);
        let path = target.split('?').next().expect("a path");
        let path = if path.starts_with("/v1/kv/") { "/v1/kv/{key}" } else { path };
        let operation = &self.document["paths"][path][method.to_lowercase()];
        assert!(operation.is_object(), "{method} {path} is not in the document");
        self.used.insert((path.to_owned(), method.to_lowercase()));
        let listed = self.resolve(&operation["responses"][response.status.to_string()]);
        assert!(listed.is_object(), "{method} {target}: {} is not in the document", response.status);
        let content = &listed["content"];
        match response.header("content-type") {
            Some(sent) => {
                let kind = sent.split(';').next().expect("a type");
                assert!(content[kind].is_object(), "{method} {target}: {sent} is not in the document");
                if kind == "application/json" {
                    self.fits(&response.json(), &content[kind]["schema"], target);
                }
            }
            None => assert!(content.is_null(), "{method} {target}: the document promises a body"),
        }
        response
    }

    /// Every operation of the document was called, but for `others`, which another test calls.
    #[track_caller]
    pub fn all_were_used(&self, others: &[&str]) {
        for (path, item) in self.document["paths"].as_object().expect("paths") {
            for method in item.as_object().expect("operations").keys().filter(|key| *key != "parameters") {
                let used = self.used.contains(&(path.clone(), method.clone()));
                assert!(used || others.contains(&path.as_str()), "{method} {path} was not called");
            }
        }
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(name) => self.document.pointer(&name[1..]).expect("a reference to something"),
            None => value,
        }
    }

    #[track_caller]
    fn fits(&self, value: &Value, schema: &Value, place: &str) {
        let schema = self.resolve(schema);
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let kinds: Vec<&str> = match &schema["type"] {
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            kind => kind.as_str().into_iter().collect(),
        };
        assert!(kinds.contains(&kind), "{place}: {value} is not {kinds:?}");
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            assert!(value.get(name).is_some(), "{place}: `{name}` is missing in {value}");
        }
        for (name, field) in value.as_object().into_iter().flatten() {
            let known = &schema["properties"][name];
            if known.is_object() {
                self.fits(field, known, place);
            } else {
                assert!(schema["additionalProperties"] != false, "{place}: `{name}` is not in the document");
            }
        }
        for item in value.as_array().into_iter().flatten().filter(|_| schema["items"].is_object()) {
            self.fits(item, &schema["items"], place);
        }
    }
}

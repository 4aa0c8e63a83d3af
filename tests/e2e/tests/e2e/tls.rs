//! The API by TCP: for who has a certificate, and nobody else.

use e2e::{HOST_IP, Node, sh};

/// Two authorities; a certificate of the first for the daemon, one of each for a client.
fn certificates() -> String {
    let line = "set -e; d=$(mktemp -d); cd $d
        for ca in ca other; do
          openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 \
            -keyout $ca-key.pem -out $ca.pem -subj /CN=$ca 2> /dev/null
        done
        made() {
          openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $1-key.pem \
            -out $1.csr -subj /CN=$1 2> /dev/null
          printf \"$3\" > $1.ext
          openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2-key.pem -CAcreateserial -days 9 \
            -extfile $1.ext -out $1.pem 2> /dev/null
        }
        made server ca 'subjectAltName=IP:192.0.2.1\\nextendedKeyUsage=serverAuth\\n'
        made client ca 'extendedKeyUsage=clientAuth\\n'
        made stranger other 'extendedKeyUsage=clientAuth\\n'
        echo $d";
    sh(None, line).ok()
}

#[test]
fn who_has_a_certificate_is_served_and_nobody_else() {
    let dir = certificates();
    let mut node = Node::new();
    let files = format!("--tlscacert {dir}/ca.pem --tlscert {dir}/server.pem --tlskey");
    let refused = node.on_host(&format!(
        "ipvsmeshd --instance {} --tls-address {HOST_IP}:2376",
        node.instance
    ));
    refused.fails(2, &["--tlscacert"]);
    let refused = node.on_host(&format!(
        "ipvsmeshd --instance {} --tls-address {HOST_IP}:2376 {files} {dir}/server.pem",
        node.instance
    ));
    refused.fails(1, &["cannot read a key from", "server.pem"]);
    let arguments = format!("--tls-address {HOST_IP}:2376 {files} {dir}/server-key.pem");
    node.arguments = arguments.split(' ').map(str::to_owned).collect();
    node.start();
    node.whoami("web", "");

    let docker = |who: &str| {
        node.from_outside(&format!(
            "docker -H tcp://{HOST_IP}:2376 --tlsverify --tlscacert {dir}/ca.pem \
             --tlscert {dir}/{who}.pem --tlskey {dir}/{who}-key.pem service ls"
        ))
    };
    assert!(docker("client").ok().contains("web"));
    docker("stranger").fails(1, &["certificate"]);
    let curl = |with: &str| {
        node.from_outside(&format!(
            "curl -sS --max-time 10 --cacert {dir}/ca.pem {with} https://{HOST_IP}:2376/services"
        ))
    };
    assert_ne!(curl("").code, 0);
    let plain = format!("curl -sS --max-time 10 http://{HOST_IP}:2376/services");
    assert_ne!(node.from_outside(&plain).code, 0);
    // those who say nothing hold up nobody
    node.from_outside(&format!(
        "for i in $(seq 40); do exec {{fd}}<> /dev/tcp/{HOST_IP}/2376; done; \
         curl -sS --max-time 5 --cacert {dir}/ca.pem --cert {dir}/client.pem \
         --key {dir}/client-key.pem https://{HOST_IP}:2376/services"
    ))
    .ok();
    sh(None, &format!("rm -r {dir}")).ok();
}

#[test]
fn the_socket_is_roots_alone() {
    let node = Node::started();
    let socket = node.socket();
    let rights = node.on_host(&format!("stat -c '%a %U' {socket}")).ok();
    assert_eq!(rights, "600 root");
    let ask = format!("curl -sS --unix-socket {socket} http://x/services");
    node.on_host(&ask).ok();
    let other = format!("setpriv --reuid 65534 --clear-groups {ask}");
    assert_ne!(node.on_host(&other).code, 0);
}

//! Whether a file of certificate authorities, or of a client certificate and its key, can be used, asked
//! before a client is built of it.

use reqwest::{Certificate, ClientBuilder, Identity};

use crate::error::FetchError;

/// Fails when `pem` does not hold certificates, or holds one that no connection could trust.
pub fn check_authorities(pem: &[u8]) -> Result<(), FetchError> {
    let certificates = Certificate::from_pem_bundle(pem).map_err(FetchError::ExtraCertificate)?;
    if certificates.is_empty() {
        return Err(FetchError::NoCertificate);
    }
    // Only a client looks into what the armour holds. This one asks nothing of anybody.
    let client = ClientBuilder::new()
        .no_proxy()
        .tls_certs_only(certificates)
        .build();
    client.map(drop).map_err(FetchError::ExtraCertificate)
}

/// Fails, with what the reader said, when `pem` is not a client certificate and the key that belongs
/// to it.
pub fn check_client(pem: &[u8]) -> Result<(), String> {
    let client = Identity::from_pem(pem)
        .and_then(|identity| ClientBuilder::new().no_proxy().identity(identity).build());
    client.map(drop).map_err(|error| {
        let error: &dyn std::error::Error = &error;
        let chain = std::iter::successors(Some(error), |error| error.source());
        // The outermost only says that something could not be built.
        chain.last().map(ToString::to_string).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----
MIIBbzCCARWgAwIBAgIUL5WrWZM1lFXdCHl19EcZoU2rn1swCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBdDAgFw0yNjEyMDEwMTAwMjJaGA8yMTI2MTEwNzAxMDAyMlow
DDEKMAgGA1UEAwwBdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABDllT5Kaj1iB
kOIti92IkhjXCPWsEWO2VHfuoHAXvImXGjaxJfVK1lTz+ikphwygK3GWtmLVB8Q5
txHO8rD85hKjUzBRMB0GA1UdDgQWBBSZcPKx6uxQpBsc2cgr9hWsa9J3GjAfBgNV
HSMEGDAWgBSZcPKx6uxQpBsc2cgr9hWsa9J3GjAPBgNVHRMBAf8EBTADAQH/MAoG
CCqGSM49BAMCA0gAMEUCICjz7DIS0T/DbsrholbaAp6zGt5HXyXwV3oahwqg5jCs
AiEAo5I0UsAVq/QAIE/bVOJlyCn59wJ2JWoBEXf4M7NoiYM=
-----END CERTIFICATE-----
";

    #[test]
    fn certificates_are_told_from_what_only_looks_like_them() {
        check_authorities(AUTHORITY.as_bytes()).unwrap();
        check_authorities(AUTHORITY.repeat(2).as_bytes()).unwrap();

        let hollow = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let cut = AUTHORITY.replace(
            "MIIBbzCCARWgAwIBAgIUL5WrWZM1lFXdCHl19EcZoU2rn1swCgYIKoZIzj0EAwIw\n",
            "",
        );
        for bad in ["", "example.com\n", hollow, &cut] {
            check_authorities(bad.as_bytes()).expect_err(bad);
        }
    }
}

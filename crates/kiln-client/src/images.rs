//! Files of images, as open files: whoever may see an image may read them, wherever the daemon
//! keeps them.

use std::collections::BTreeMap;
use std::fs::File;

use kiln_api::image::{self, Image, ImageFile, OpenParams};
use kiln_api::{HandleId, Method as _};
use serde::de::Error as _;

use crate::{Client, ClientError};

/// An image with files of it, open for reading alone.
#[derive(Debug)]
pub struct OpenedImage {
    /// The image, with the version whose files they are.
    pub image: Image,
    files: BTreeMap<ImageFile, File>,
}

impl OpenedImage {
    /// Returns one of its files; none when it was not asked for, and where an image has none.
    pub fn file(&self, file: ImageFile) -> Option<&File> {
        self.files.get(&file)
    }

    /// Takes one of its files out.
    pub fn take(&mut self, file: ImageFile) -> Option<File> {
        self.files.remove(&file)
    }
}

impl Client {
    /// Opens files of an image.
    ///
    /// The root filesystem and the kernel are there when they were asked for; other files only
    /// where the image has them.
    pub async fn open_image(
        &self,
        image: &str,
        architecture: Option<&str>,
        files: &[ImageFile],
    ) -> Result<OpenedImage, ClientError> {
        let params = OpenParams {
            image: image.to_owned(),
            architecture: architecture.map(str::to_owned),
            files: files.iter().copied().collect(),
        };
        let opened = self.call::<image::Open>(&params).await?;
        for &file in files {
            if file.is_everywhere() && !opened.handles.contains_key(&file) {
                return Err(without(file));
            }
        }
        let (names, handles): (Vec<ImageFile>, Vec<HandleId>) = opened.handles.into_iter().unzip();
        let taken = self.files().take(&handles).await?;
        Ok(OpenedImage {
            image: opened.image,
            files: names.into_iter().zip(taken).collect(),
        })
    }
}

fn without(file: ImageFile) -> ClientError {
    let source = serde_json::Error::custom(format_args!("it has no handle for the {file}"));
    ClientError::Protocol {
        method: image::Open::NAME.to_owned(),
        source: jsonrpsee::core::client::Error::ParseError(source),
    }
}
